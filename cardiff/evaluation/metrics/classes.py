"""Measures of one class of images at a time."""

import numpy as np
from scipy.spatial.distance import pdist

from cardiff.errors import UserError
from cardiff.evaluation.metrics.intervals import Estimate, bootstrap_weights, from_bootstrap
from cardiff.evaluation.metrics.pairwise import squared_distances
from cardiff.progress import shown

MOST = 2000
"""Images of a class of which all pairs are taken; of more, the first so many."""


def mean_distance(features: np.ndarray) -> float:
    """Mean distance between two different images (N, D); NaN for fewer than two."""
    count = min(len(features), MOST)
    return float(_distances(features).sum() / (count * (count - 1))) if count > 1 else float("nan")


def relative_diversity(
    features: np.ndarray, labels: np.ndarray, real: np.ndarray, replicates: int, seed: int = 0
) -> Estimate | None:
    """Mean distance between two samples of a class over that of two real images, averaged over the classes.

    Args:
        features: (N, D).
        labels: (N,), from 0 to K − 1.
        real: The mean distance between real images of each class, (K,); classes where it is NaN or 0 do not count.
        replicates: Bootstrap replicates.
        seed: Of the resampling.

    The classes are resampled separately, whether they are requested or predicted.

    Returns:
        The ratio, 1 for samples as diverse as the data. A pair of an image with itself never counts, also where a
        resampled set has it twice. None if fewer than two pairs of samples can be chosen independently, so that there
        is no spread: it takes a class of three samples, or two classes of two.
    """
    counts = np.bincount(labels, minlength=len(real))
    usable = np.flatnonzero((counts > 1) & (np.nan_to_num(real) > 0))
    if (counts[usable] - 1).sum() < 2:
        return None
    weights = bootstrap_weights(len(features), replicates, seed, labels)
    weights = np.concatenate([np.ones((1, len(features))), weights])  # (1 + R, N): the set itself first
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for label in shown(usable, "diversity of the classes"):
        members = np.flatnonzero(labels == label)[:MOST]
        distances, mine = _distances(features[members]), weights[:, members]
        pairs = mine.sum(1) ** 2 - (mine**2).sum(1)
        some = pairs > 0  # of a class of two, a resampled set may have one image twice
        sums = ((mine @ distances) * mine).sum(1)
        total[some] += sums[some] / pairs[some] / real[label]
        classes += some
    found = np.divide(total, classes, out=np.full(len(weights), np.nan), where=classes > 0)
    return from_bootstrap(found[0], found[1:])


def class_diversity(features: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Mean distance between two samples of each class: features (N, D), labels (N,).

    Raises:
        UserError: A class has a single sample.
    """
    counts = dict(zip(*np.unique(labels, return_counts=True)))
    for label, count in counts.items():
        if count < 2:
            raise UserError(f"Class {label} has a single sample, which has no diversity: draw more.")
    return {int(label): float(pdist(features[labels == label]).mean()) for label in counts}


def diversity(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance between two samples of one class, averaged over the classes: features (N, D), labels (N,)."""
    return float(np.mean(list(class_diversity(features, labels).values())))


def _distances(features: np.ndarray) -> np.ndarray:
    """Between every two of the first images, (n, n), with an exact 0 of each to itself."""
    features = np.asarray(features[:MOST], np.float64)
    distances = np.sqrt(np.maximum(squared_distances(features, features), 0))
    np.fill_diagonal(distances, 0)
    return distances
