"""Distances in feature space, against truth and other implementations."""

import numpy as np
import pytest

from cardiff.evaluation.distances import diversity, frechet_distance


def test_frechet_distance_of_known_normals():
    """In one dimension and along the axes of a diagonal covariance it is (Δμ)² + (Δσ)², summed."""
    rng = np.random.default_rng(0)
    scales, shift = np.array([0.5, 2.0, 1.0]), np.array([1.0, 0.0, -0.5])
    z = rng.standard_normal((4000, 3))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T  # exactly white
    expected = (shift**2).sum() + ((scales - 1) ** 2).sum()
    assert frechet_distance(z * scales + shift, z) == pytest.approx(expected, rel=1e-9)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance((z * scales + shift) @ turn, z @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(z, z) == pytest.approx(0, abs=1e-7)


def test_diversity_is_the_mean_distance_within_a_class():
    """Two points 5 apart, and the three corners of a right triangle of sides 3, 4 and 5."""
    points = np.array([[0, 0], [3, 4], [0, 0], [3, 0], [0, 4]])
    assert diversity(points, np.array([1, 1, 7, 7, 7])) == pytest.approx((5 + 4) / 2)
