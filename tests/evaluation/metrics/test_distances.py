"""Distances in feature space, against closed forms, other implementations and simulation."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import entr
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from cardiff.errors import UserError
from cardiff.evaluation.metrics import distances
from cardiff.evaluation.metrics.distances import (
    Gaussian,
    class_diversity,
    density_coverage,
    diversity,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    frechet_influence,
    frechet_terms,
    inception_estimate,
    infinity_needs,
    kernel_distance,
    kernel_estimate,
    kernel_mean,
    precision_recall,
    squared_distances,
)
from cardiff.evaluation.metrics.intervals import Estimate, bootstrap_weights, jackknife_groups

STANDARD = Gaussian(np.zeros(8), np.eye(8), 10**6)
"""The reference of simulations, which is known exactly."""
SCALES = np.linspace(0.7, 1.3, 8)
SHIFT = 0.2
TRUTH = 8 * SHIFT**2 + ((SCALES - 1) ** 2).sum()
"""Fréchet distance of normals with these scales and this shift from STANDARD."""


def coverage(found: list[Estimate], truth: float | None = None) -> float:
    """Share of the intervals that hold the truth, or the mean of the values."""
    truth = np.mean([one.value for one in found]) if truth is None else truth
    return np.mean([low <= truth <= high for low, high in (one.interval() for one in found)])


def shifted(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 8)) * SCALES + SHIFT


def two_sets(first: int, second: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a spectrum and a mean, as float32."""
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((dimension, dimension)) * np.arange(1, dimension + 1) ** -0.5
    sets = rng.standard_normal((first, dimension)), rng.gamma(2, 0.5, (second, dimension)) - 0.9
    return tuple((one @ mix + 1).astype(np.float32) for one in sets)


# The Fréchet distance


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
    monkeypatch.setattr(distances, "BLOCK", 8 * 30)
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


# The kernel distance


def moment(mean, scale, its_mean, its_scale) -> float:
    """E (x·y/D + 1)³ of independent x ~ N(mean, scale² I) and y ~ N(its_mean, its_scale² I)."""
    dimension, m = len(mean), mean @ its_mean
    s, t = scale**2, its_scale**2
    xx, yy = mean @ mean, its_mean @ its_mean
    square = xx + dimension * s  # E |x|²
    # Given x, x·y is normal with mean a = x·its_mean and variance t|x|²; then over x:
    a2, a3 = m**2 + s * yy, m**3 + 3 * m * s * yy
    a_square = m * square + 2 * s * m  # E a|x|²
    second, third = a2 + t * square, a3 + 3 * t * a_square
    return third / dimension**3 + 3 * second / dimension**2 + 3 * m / dimension + 1


def test_kernel_distance_of_known_normals():
    rng = np.random.default_rng(7)
    mean, its_mean, scale, its_scale = np.array([0.5, -0.2, 0.3]), np.array([0.1, 0.4, 0.0]), 1.2, 0.8
    x, y = mean + scale * rng.standard_normal((10**6, 3)), its_mean + its_scale * rng.standard_normal((10**6, 3))
    cubes = ((x * y).sum(1) / 3 + 1) ** 3
    expected = moment(mean, scale, its_mean, its_scale)
    assert abs(cubes.mean() - expected) < 4 * cubes.std() / 1000  # the closed form itself
    truth = moment(mean, scale, mean, scale) + moment(its_mean, its_scale, its_mean, its_scale) - 2 * expected
    x, y = x.reshape(-1, 40, 3), y.reshape(-1, 50, 3)
    found = np.array([kernel_estimate(x[i], y[i], replicates=2).value for i in range(2000)])
    assert abs(found.mean() - truth) < 4 * found.std() / np.sqrt(2000)
    assert truth > 20 * found.std() / np.sqrt(2000)  # else the line above would show nothing


def test_kernel_distance_is_that_of_torch_fidelity():
    first, second = np.random.default_rng(6).normal(size=(2, 120, 5)) + [[[0.0]], [[0.5]]]
    both = (torch.from_numpy(features) for features in (first, second))
    theirs = kid_features_to_metric(*both, kid_subsets=1, kid_subset_size=120, verbose=False)
    found = kernel_estimate(first, second, 2).value
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    given = kernel_estimate(first, second, 2, real=kernel_mean(second))
    assert given.value == found


def test_kernel_replicates_leave_out_an_image_with_itself(monkeypatch):
    first, second = two_sets(30, 25, 6)
    monkeypatch.setattr(distances, "BLOCK", 30 * 7)
    found = kernel_estimate(first, second, 5)
    expected = []
    for weights in bootstrap_weights(30, 5):
        drawn = np.repeat(np.arange(30), weights)
        x, y = first[drawn].astype(np.float64), second.astype(np.float64)
        other = drawn[:, None] != drawn
        within, real = (x @ x.T / 6 + 1) ** 3, (y @ y.T / 6 + 1) ** 3
        real = real[~np.eye(25, dtype=bool)].mean()
        expected.append(within[other].mean() + real - 2 * ((x @ y.T / 6 + 1) ** 3).mean())
    np.testing.assert_allclose(found.deviations, expected - np.mean(expected), rtol=1e-9)


def test_kernel_interval_covers():
    rng = np.random.default_rng(8)
    reference = rng.standard_normal((200, 8))
    found = [kernel_estimate(shifted(rng, 200), reference, 200) for _ in range(300)]
    assert 0.91 < coverage(found) < 0.985


# Neighbours


def by_loops(features, reference, k: int) -> tuple[float, float]:
    """Density and coverage as the paper writes them."""
    radii = np.sort(cdist(reference, reference), 1)[:, k]
    inside = [[np.linalg.norm(x - y) <= r for y, r in zip(reference, radii)] for x in features]
    return np.sum(inside) / (k * len(features)), np.any(inside, axis=0).mean()


def test_neighbours_are_those_of_others(monkeypatch):
    first, second = two_sets(150, 180, 5)
    first = np.float32(0.7) * first
    monkeypatch.setattr(distances, "BLOCK", 180 * 37)
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
    with pytest.raises(UserError, match="5 images are too few for the distance of neighbour 5 of each"):
        density_coverage(first, second[:5])


def test_distances_of_near_images_are_exact():
    rng = np.random.default_rng(9)
    first = rng.standard_normal((40, 300)) + 1e3
    second = np.concatenate([first[:10] + 1e-5 * rng.standard_normal((10, 300)), first[10:12], first[20:] * 2])
    np.testing.assert_allclose(np.sqrt(squared_distances(first, second)), cdist(first, second), rtol=1e-8)
    assert squared_distances(first, second)[10, 10] == 0


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


# Classes


def test_inception_score_is_that_of_torch_fidelity():
    logits = np.random.default_rng(10).standard_normal((400, 7)).astype(np.float32) * 2
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=4)
    assert inception_estimate(logits, splits=4).value == theirs["inception_score_mean"]
    # The replicates are of the same score: without resampling it is torch-fidelity's of one split.
    whole = isc_features_to_metric(torch.from_numpy(logits), splits=1)["inception_score_mean"]
    p = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    assert np.exp(entr(p.mean(0)).sum() - entr(p).sum(1).mean()) == pytest.approx(whole, rel=1e-5)
    certain = 50.0 * np.eye(7)[np.arange(70) % 7]
    assert inception_estimate(certain, splits=1).value == pytest.approx(7, rel=1e-6)  # as many as classes


def test_inception_interval_covers():
    rng = np.random.default_rng(11)
    found = [inception_estimate(2 * rng.standard_normal((200, 7)), 200, splits=1) for _ in range(300)]
    assert 0.91 < coverage(found) < 0.985


def test_diversity_is_the_mean_distance_within_a_class():
    """Two points 5 apart, and the three corners of a right triangle of sides 3, 4 and 5."""
    points, labels = np.array([[0, 0], [3, 4], [0, 0], [3, 0], [0, 4]]), np.array([1, 1, 7, 7, 7])
    assert class_diversity(points, labels) == pytest.approx({1: 5, 7: 4})
    assert diversity(points, labels) == pytest.approx((5 + 4) / 2)
    with pytest.raises(UserError, match="Class 1 has a single sample"):
        class_diversity(points[1:], labels[1:])


# Samples whose classes were asked for: as many of each as the data has, by design and not by chance.

CENTRES = np.random.default_rng(5).normal(size=(6, 8)) * 3
SHARES = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])


def by_design(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Normals around six centres, exactly so many around each."""
    labels = np.repeat(np.arange(6), np.round(SHARES * count).astype(int))
    return CENTRES[labels] + rng.normal(size=(len(labels), 8)), labels


def by_chance(count: int, rng: np.random.Generator) -> np.ndarray:
    return CENTRES[rng.choice(6, count, p=SHARES)] + rng.normal(size=(count, 8))


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


def test_kernel_distance_of_samples_by_design():
    """On average as of samples by chance; without the strata it is too low, as too few pairs are of one class."""
    rng = np.random.default_rng(1)
    reference = by_chance(400, rng)
    found, plain, chance = [], [], []
    for _ in range(200):
        features, labels = by_design(60, rng)
        found.append(kernel_estimate(features, reference, 2, strata=labels).value)
        plain.append(kernel_estimate(features, reference, 2).value)
        chance.append(kernel_estimate(by_chance(60, rng), reference, 2).value)
    error = np.hypot(np.std(found), np.std(chance)) / np.sqrt(200)
    assert abs(np.mean(found) - np.mean(chance)) < 4 * error
    assert np.mean(plain) < np.mean(chance) - 4 * error


def test_the_interval_of_samples_by_design_leaves_the_classes_out():
    """Of a model whose classes all lie a little aside."""
    rng = np.random.default_rng(2)
    reference = by_chance(400, rng)
    values, errors, wide = [], [], []
    for seed in range(120):
        features, labels = by_design(120, rng)
        features += 1
        estimate = kernel_estimate(features, reference, 60, seed, strata=labels)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
        wide.append(kernel_estimate(features, reference, 60, seed).standard_error)
    assert 0.75 < np.mean(errors) / np.std(values) < 1.35
    assert np.mean(wide) > 1.5 * np.std(values)


def test_a_class_of_one_image_does_not_break_the_kernel_distance():
    features, labels = by_design(60, np.random.default_rng(3))
    estimate = kernel_estimate(features[:-5], features, 20, strata=labels[:-5])
    assert np.isfinite(estimate.value) and np.isfinite(estimate.standard_error)


def test_the_kernel_distance_alone_is_that_of_the_estimate():
    rng = np.random.default_rng(6)
    for count in (2, 3, 40):
        features, reference = rng.normal(size=(count, 8)), rng.normal(size=(50, 8))
        estimate = kernel_estimate(features, reference, 20)
        assert kernel_distance(features, reference) == pytest.approx(estimate.value, rel=1e-12)
        assert np.isfinite(estimate.deviations).all()


def test_where_every_class_has_one_image_all_pairs_stand_for_those_of_a_class():
    """The value is that of independent samples, and it is uncertain: two classes are too little to be sure of."""
    rng = np.random.default_rng(7)
    features, reference = by_chance(40, rng), by_chance(200, rng)
    estimate = kernel_estimate(features, reference, 200, strata=np.arange(40))
    plain = kernel_estimate(features, reference, 200)
    assert estimate.value == pytest.approx(plain.value, rel=1e-9)
    assert estimate.standard_error == pytest.approx(plain.standard_error, rel=0.15)


def test_the_interval_of_one_sample_of_each_class_covers():
    """Forty classes with centres of their own, one sample of each, the same classes every time."""
    rng = np.random.default_rng(8)
    centres = rng.normal(size=(40, 8))
    reference = np.repeat(centres, 5, 0) + rng.normal(size=(200, 8))
    found = [
        kernel_estimate(centres + 0.5 + rng.normal(size=(40, 8)), reference, 100, seed, strata=np.arange(40))
        for seed in range(150)
    ]
    values = np.array([estimate.value for estimate in found])
    assert np.mean([estimate.standard_error for estimate in found]) > values.std()  # on the wide side
    inside = [low <= values.mean() <= high for low, high in (estimate.interval() for estimate in found)]
    assert np.mean(inside) > 0.93


def test_the_inception_score_is_over_ten_parts_unless_asked():
    logits = np.random.default_rng(9).standard_normal((200, 12)).astype(np.float32)
    value = inception_estimate(logits, replicates=2).value
    assert value == inception_estimate(logits, replicates=2, splits=10).value
    assert value != inception_estimate(logits, replicates=2, splits=1).value
