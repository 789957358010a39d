"""Measures of one class at a time against all pairs by scipy, resampled one set at a time."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from cardiff.evaluation import classes
from cardiff.evaluation.classes import mean_distance, relative_diversity
from cardiff.evaluation.intervals import bootstrap_weights


def test_mean_distance_is_that_of_all_pairs(monkeypatch):
    features = np.random.default_rng(0).standard_normal((40, 5))
    assert mean_distance(features) == pytest.approx(pdist(features).mean())
    assert np.isnan(mean_distance(features[:1]))
    monkeypatch.setattr(classes, "MOST", 7)  # of more, the first so many
    assert mean_distance(features) == pytest.approx(pdist(features[:7]).mean())


def test_replicates_are_of_classes_resampled_by_themselves():
    """An image with itself is no pair, and a class with nothing to compare with does not count."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2, 3], [12, 7, 5, 1])
    features, real = rng.standard_normal((25, 3)), np.array([2.0, 1.5, np.nan, 1.0])
    found = relative_diversity(features, labels, real, replicates=50, seed=3)
    every = squareform(pdist(features))
    values = []
    for weights in [np.ones(25, int), *bootstrap_weights(25, 50, 3, labels)]:
        ratios = []
        for label in (0, 1):
            drawn = np.repeat(np.arange(25), weights * (labels == label))
            apart = drawn[:, None] != drawn[None]
            ratios.append(every[np.ix_(drawn, drawn)][apart].mean() / real[label])
        values.append(np.mean(ratios))
    assert found.value == pytest.approx(values[0])
    np.testing.assert_allclose(found.deviations, np.array(values[1:]) - np.mean(values[1:]), atol=1e-12)
