"""Measures of one class at a time: against pairs counted by hand, and where there are too few images."""

import warnings

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from cardiff.errors import UserError
from cardiff.evaluation.metrics import classes
from cardiff.evaluation.metrics.classes import class_diversity, diversity, mean_distance, relative_diversity
from cardiff.evaluation.metrics.intervals import bootstrap_weights


def test_the_mean_distance_needs_two_images():
    points = np.random.default_rng(0).normal(size=(7, 3))
    assert mean_distance(points) == pytest.approx(pdist(points).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_distance(points[:1])) and np.isnan(mean_distance(points[:0]))


def test_relative_diversity_is_the_mean_of_the_classes_that_can_be_compared():
    """Class 1 has a single sample, class 2 a single real image, class 3 two equal ones, class 4 no sample."""
    features = np.random.default_rng(1).normal(size=(13, 4))
    labels = np.array([0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 5, 5, 5])
    real = np.array([2.0, 1.0, np.nan, 0.0, 1.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = relative_diversity(features, labels, real, 300)
    ratios = pdist(features[:4]).mean() / 2, pdist(features[10:]).mean() / 4
    assert found.value == pytest.approx(np.mean(ratios))
    assert np.isfinite(found.deviations).all() and found.standard_error > 0


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 1, 2], [2, 2, 2, 2]])
def test_without_two_independent_pairs_there_is_no_diversity(labels):
    features = np.random.default_rng(2).normal(size=(4, 3))
    assert relative_diversity(features, np.array(labels), np.array([1.0, 1.0, np.nan, 1.0]), 10) is None


def test_two_classes_of_two_have_a_diversity():
    features = np.array([[0.0], [1.0], [0.0], [3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = relative_diversity(features, np.array([0, 0, 1, 1]), np.ones(2), 200)
    assert found.value == 2 and np.isfinite(found.deviations).all() and found.standard_error > 0


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


def test_diversity_is_the_mean_distance_within_a_class():
    """Two points 5 apart, and the three corners of a right triangle of sides 3, 4 and 5."""
    points, labels = np.array([[0, 0], [3, 4], [0, 0], [3, 0], [0, 4]]), np.array([1, 1, 7, 7, 7])
    assert class_diversity(points, labels) == pytest.approx({1: 5, 7: 4})
    assert diversity(points, labels) == pytest.approx((5 + 4) / 2)
    with pytest.raises(UserError, match="Class 1 has a single sample"):
        class_diversity(points[1:], labels[1:])
