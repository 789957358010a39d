"""Measures of one class of images at a time."""

import numpy as np

from cardiff.evaluation.distances import kernel_estimate, squared_distances
from cardiff.evaluation.intervals import Estimate, bootstrap_weights, from_bootstrap

MOST = 2000
"""Images of a class of which all pairs are taken; of more, the first so many."""


def mean_distance(features: np.ndarray) -> float:
    """Mean distance between two different images (N, D); NaN for fewer than two."""
    distances = _distances(features)
    count = len(distances)
    return float(distances.sum() / (count * (count - 1))) if count > 1 else float("nan")


def relative_diversity(
    features: np.ndarray, labels: np.ndarray, real: np.ndarray, replicates: int, seed: int = 0
) -> Estimate:
    """Mean distance between two samples of a class over that of two real images, averaged over the classes.

    Args:
        features: (N, D).
        labels: (N,), from 0 to K − 1.
        real: The mean distance between real images of each class, (K,); classes where it is NaN do not count.
        replicates: Bootstrap replicates.
        seed: Of the resampling.

    The classes are resampled by themselves, whether they were asked for or read.

    Returns:
        The ratio, 1 for samples as diverse as the data. A pair of an image with itself never counts, also where a
        resampled set has it twice.
    """
    weights = bootstrap_weights(len(features), replicates, seed, labels)
    weights = np.concatenate([np.ones((1, len(features))), weights])  # (1 + R, N): the set itself first
    ratios = []
    for label, of_data in enumerate(real):
        members = np.flatnonzero(labels == label)[:MOST]
        if len(members) < 2 or not of_data > 0:
            continue
        distances, mine = _distances(features[members]), weights[:, members]
        pairs = mine.sum(1) ** 2 - (mine**2).sum(1)
        with np.errstate(invalid="ignore"):  # of a class of two, a resampled set may have one image twice
            ratios.append(((mine @ distances) * mine).sum(1) / pairs / of_data)
    found = np.nanmean(ratios, axis=0)
    return from_bootstrap(found[0], found[1:])


def kernel_value(features: np.ndarray, reference: np.ndarray) -> float:
    """The kernel distance of `kernel_estimate` alone."""
    return kernel_estimate(features, reference, replicates=2).value


def _distances(features: np.ndarray) -> np.ndarray:
    """Between every two of the first images, (n, n), with an exact 0 of each to itself."""
    features = np.asarray(features[:MOST], np.float64)
    distances = np.sqrt(np.maximum(squared_distances(features, features), 0))
    np.fill_diagonal(distances, 0)
    return distances
