"""Precision, recall, density and coverage, against other implementations and simulation."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import prc_features_to_metric

from cardiff.errors import UserError
from cardiff.evaluation.metrics import pairwise
from cardiff.evaluation.metrics.intervals import jackknife_groups
from cardiff.evaluation.metrics.neighbours import density_coverage, precision_recall
from tests.support.feature_sets import coverage, two_sets


def by_loops(features, reference, k: int) -> tuple[float, float]:
    """Density and coverage as the paper writes them."""
    radii = np.sort(cdist(reference, reference), 1)[:, k]
    inside = [[np.linalg.norm(x - y) <= r for y, r in zip(reference, radii)] for x in features]
    return np.sum(inside) / (k * len(features)), np.any(inside, axis=0).mean()


def test_neighbours_are_those_of_others(monkeypatch):
    first, second = two_sets(150, 180, 5)
    first = np.float32(0.7) * first
    monkeypatch.setattr(pairwise, "BLOCK", 180 * 37)
    theirs = prc_features_to_metric(
        *(torch.from_numpy(one).double() for one in (first, second)), prc_neighborhood=3, verbose=False
    )
    precision, recall = precision_recall(first, second)
    assert precision.value == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall.value == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.1 < recall.value < 0.95 and 0.1 < precision.value < 0.95
    density, cover = density_coverage(first, second)
    assert (density.value, cover.value) == pytest.approx(by_loops(first, second, 5), rel=1e-12)


def test_jackknife_replicates_are_the_measures_without_a_group():
    first, second = two_sets(100, 120, 4)
    groups = jackknife_groups(100)
    kept = [first[groups != group] for group in range(20)]
    for measure in (precision_recall, density_coverage):
        whole = measure(first, second)[1]
        without = np.array([measure(some, second)[1].value for some in kept])
        np.testing.assert_allclose(whole.deviations, np.sqrt(19) * (without.mean() - without), atol=1e-12)
        assert np.ptp(without) > 0


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_set_against_itself(offset):
    """Also with repeated images, and far from the origin, where sums of squares lose the distances."""
    features = two_sets(200, 2, 10)[0].astype(np.float64) + offset
    features[50:60] = features[3]
    precision, recall = precision_recall(features, features)
    density, cover = density_coverage(features, features)
    assert precision.value == recall.value == cover.value == 1
    unlike = np.delete(features, slice(50, 60), axis=0)
    assert density_coverage(unlike, unlike)[0].value == pytest.approx(6 / 5)  # k neighbours and the image itself


def test_far_sets_share_nothing():
    first, second = two_sets(60, 60, 4)
    for one in precision_recall(first, second + 1e4) + density_coverage(first, second + 1e4):
        assert one.value == one.standard_error == 0
    assert precision_recall(first, second + 1e4)[0].interval()[1] == pytest.approx(0.0602, abs=1e-3)  # Wilson
    with pytest.raises(UserError, match="5 images are too few for 5 nearest neighbours"):
        density_coverage(first, second[:5])


def test_intervals_of_neighbours_cover():
    """Half as wide they would cover 0.67; those of the jackknife are on the wide side, as documented."""
    rng = np.random.default_rng(12)
    reference = rng.standard_normal((200, 3))
    found = []
    for _ in range(200):
        samples = 0.7 * rng.standard_normal((200, 3)) + 0.3
        found.append(precision_recall(samples, reference, replicates=200) + density_coverage(samples, reference))
    precision, recall, density, cover = (coverage(list(of_one)) for of_one in zip(*found))
    assert 0.9 < precision < 0.99 and 0.9 < density < 0.99
    assert recall > 0.93 and cover > 0.93
    for which in (1, 3):
        errors = np.mean([one[which].standard_error for one in found])
        assert 0.95 < errors / np.std([one[which].value for one in found]) < 1.7
