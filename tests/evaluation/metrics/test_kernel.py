"""The kernel distance, against closed forms, another implementation and simulation."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from cardiff.evaluation.metrics import pairwise
from cardiff.evaluation.metrics.intervals import bootstrap_weights
from cardiff.evaluation.metrics.kernel import kernel_distance, kernel_estimate, kernel_mean
from tests.support.feature_sets import by_chance, by_design, coverage, shifted, two_sets


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
    monkeypatch.setattr(pairwise, "BLOCK", 30 * 7)
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
