"""Squared distances of pairs, against scipy's."""

import numpy as np
from scipy.spatial.distance import cdist

from cardiff.evaluation.metrics.pairwise import squared_distances


def test_distances_of_near_images_are_exact():
    rng = np.random.default_rng(9)
    first = rng.standard_normal((40, 300)) + 1e3
    second = np.concatenate([first[:10] + 1e-5 * rng.standard_normal((10, 300)), first[10:12], first[20:] * 2])
    np.testing.assert_allclose(np.sqrt(squared_distances(first, second)), cdist(first, second), rtol=1e-8)
    assert squared_distances(first, second)[10, 10] == 0
