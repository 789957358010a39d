"""The Fréchet distance, against closed forms, another implementation and simulation."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from cardiff.errors import UserError
from cardiff.evaluation.metrics import pairwise
from cardiff.evaluation.metrics.frechet import (
    Gaussian,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    frechet_influence,
    frechet_terms,
    infinity_needs,
)
from cardiff.evaluation.metrics.intervals import bootstrap_weights
from tests.support.feature_sets import CENTRES, SCALES, SHARES, STANDARD, TRUTH, by_design, coverage, shifted, two_sets


def test_frechet_distance_of_known_normals():
    """In one dimension and along the axes of a diagonal covariance it is (Δμ)² + (Δσ)², summed."""
    rng = np.random.default_rng(0)
    scales, shift = np.array([0.5, 2.0, 1.0]), np.array([1.0, 0.0, -0.5])
    z = rng.standard_normal((4000, 3))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T  # exactly white
    expected = (shift**2).sum(), ((scales - 1) ** 2).sum()
    assert frechet_distance(z * scales + shift, z) == pytest.approx(sum(expected), rel=1e-9)
    assert frechet_terms(z * scales + shift, z) == pytest.approx(expected, rel=1e-9)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance((z * scales + shift) @ turn, z @ turn) == pytest.approx(sum(expected), rel=1e-9)


@pytest.mark.parametrize("count", [500, 40])
def test_frechet_distance_is_that_of_others(count):
    first, second = two_sets(count, 700, 64)
    theirs = [fid_features_to_statistics(torch.from_numpy(one.astype(np.float64))) for one in (first, second)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(first, Gaussian.of(second)) == pytest.approx(expected, rel=1e-6)
    a, b = (np.cov(one.astype(np.float64), rowvar=False) for one in (first, second))
    gap = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    by_root = gap @ gap + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(first, second) == pytest.approx(by_root, rel=1e-6)


@pytest.mark.parametrize("count", [500, 40])
def test_frechet_distance_of_a_set_with_itself(count):
    features = two_sets(count, 2, 64)[0]
    assert abs(frechet_distance(features, features)) < 1e-12 * np.trace(Gaussian.of(features).covariance)


def test_weights_count_images_several_times(monkeypatch):
    features, weights = two_sets(100, 2, 8)[0], bootstrap_weights(100, 1)[0]
    monkeypatch.setattr(pairwise, "BLOCK", 8 * 30)
    found = Gaussian.of(features, weights)
    repeated = np.repeat(features.astype(np.float64), weights, axis=0)
    np.testing.assert_allclose(found.mean, repeated.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(repeated, rowvar=False), rtol=1e-10, atol=1e-12)
    assert found.count == 100
    with pytest.raises(UserError, match="at least 2 images, but there are 1"):
        Gaussian.of(features[:1])


@pytest.mark.parametrize("count", [400, 12])
def test_influence_is_the_derivative(count):
    """By the weight of one sample, also where there are fewer samples than dimensions."""
    features, reference = two_sets(count, 700, 16)
    reference, influence, step = Gaussian.of(reference), frechet_influence(features, Gaussian.of(reference)), 1e-4
    for i in (0, 5, 11):
        towards = [(1 - e) * np.ones(count) + e * count * (np.arange(count) == i) for e in (step, -step)]
        up, down = (frechet_distance(Gaussian.of(features, weights), reference) for weights in towards)
        assert (up - down) / (2 * step) == pytest.approx(influence[i], rel=1e-4, abs=1e-4 * influence.std())
    assert influence.mean() == pytest.approx(0, abs=1e-9 * influence.std())


def test_frechet_interval_covers():
    """What the distance is on average at 200 samples; an interval of half the width would cover 0.67."""
    rng = np.random.default_rng(1)
    found = [frechet_estimate(shifted(rng, 200), STANDARD, 200) for _ in range(400)]
    assert 0.915 < coverage(found) < 0.98
    spread = np.std([one.value for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.15)


def test_frechet_replicates_are_those_of_the_bootstrap_to_first_order():
    features = shifted(np.random.default_rng(2), 2000)
    found = frechet_estimate(features, STANDARD, 60)
    whole = [frechet_distance(Gaussian.of(features, weights), STANDARD) for weights in bootstrap_weights(2000, 60)]
    assert np.corrcoef(found.deviations, whole)[0, 1] > 0.99
    assert found.standard_error == pytest.approx(np.std(whole), rel=0.05)


def test_a_paired_difference_of_frechet_distances():
    """Two models that share their noise: far narrower than either interval, and it covers."""
    rng = np.random.default_rng(3)
    found, singles = [], []
    for _ in range(200):
        noise = rng.standard_normal((300, 8))
        one, other = (frechet_estimate(noise * SCALES + shift, STANDARD, 200) for shift in (0.2, 0.22))
        found.append(one.minus(other))
        singles.append(one.standard_error)
    assert 0.9 < coverage(found) < 0.99
    assert np.mean([gap.standard_error for gap in found]) < 0.2 * np.mean(singles)


def test_the_extrapolated_distance_is_that_of_infinitely_many():
    """A distance at 400 samples is 6 standard errors of the mean away; half the width would cover 0.67."""
    rng = np.random.default_rng(4)
    found = [frechet_infinity(shifted(rng, 400), STANDARD, 200) for _ in range(300)]
    values, at_all = np.array([one.estimate.value for one in found]), np.array([one.distances[0] for one in found])
    error = values.std() / np.sqrt(300)
    assert abs(values.mean() - TRUTH) < 3 * error and at_all.mean() - TRUTH > 6 * error
    assert 0.91 < coverage([one.estimate for one in found], TRUTH) < 0.985


def test_the_line_and_its_points():
    features = shifted(np.random.default_rng(5), 400)
    found = frechet_infinity(features, STANDARD)
    np.testing.assert_allclose(found.sizes, [400, 200, 400 / 3, 100])
    assert found.distances[0] == frechet_distance(features, STANDARD)
    assert found.estimate.value + found.slope / 400 == pytest.approx(found.distances[0], rel=1e-12)
    line = found.estimate.value + found.slope / found.sizes
    np.testing.assert_allclose(line, found.distances, rtol=0.05)
    assert (line - found.distances).sum() == pytest.approx(0, abs=1e-12)


def test_too_few_samples_for_the_line():
    """Four for each dimension make two sizes of two for each dimension and more."""
    features = shifted(np.random.default_rng(6), 32)
    assert infinity_needs(8) == 32
    assert frechet_infinity(features, STANDARD).sizes.tolist() == [32, 16]
    with pytest.raises(UserError, match="31 samples are too few .* in 8 dimensions: draw at least 32"):
        frechet_infinity(features[:31], STANDARD)


def test_extrapolation_of_samples_by_design():
    """The samples are as the data, so it is 0; subsets with classes at random pretend a bias that is not there."""
    gap = CENTRES - SHARES @ CENTRES
    truth = Gaussian(SHARES @ CENTRES, (gap.T * SHARES) @ gap + np.eye(8), 10**9)
    rng = np.random.default_rng(0)
    plain, found, inside = [], [], 0
    for seed in range(150):
        features, labels = by_design(120, rng)
        estimate = frechet_infinity(features, truth, 100, seed, labels).estimate
        found.append(estimate.value)
        plain.append(frechet_infinity(features, truth, 100, seed).estimate.value)
        low, high = estimate.interval()
        inside += low <= 0 <= high
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 0.05 and np.mean(plain) < -0.5
    assert inside >= 150 * 0.9 and error < 0.02
