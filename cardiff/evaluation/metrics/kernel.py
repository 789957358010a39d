"""The kernel distance of samples from real images in the features of a network; in the FID's Inception, the KID.

Features are float arrays (N, D) of samples and (M, D) of the reference, which is held fixed: the interval is about
other samples of the same model.
"""

import numpy as np

from cardiff.evaluation.metrics.intervals import REPLICATES, Estimate, bootstrap_weights, from_bootstrap
from cardiff.evaluation.metrics.pairwise import blocks


def kernel_mean(features: np.ndarray) -> float:
    """The mean of (x·y/D + 1)³ over all pairs of different images (N, D)."""
    features, count = features.astype(np.float64), len(features)
    total = sum(_off_diagonal(features, rows).sum() for rows in blocks(count, count, "kernel of the real images"))
    return float(total / (count * (count - 1)))


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The value of `kernel_estimate` without strata, at least two images of each."""
    features, reference = features.astype(np.float64), reference.astype(np.float64)
    across = sum(_kernel(features[rows], reference).sum() for rows in blocks(len(features), len(reference)))
    across /= len(features) * len(reference)
    return float(kernel_mean(features) - 2 * across + kernel_mean(reference))


def kernel_estimate(
    features: np.ndarray,
    reference: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
    real: float | None = None,
    strata: np.ndarray | None = None,
) -> Estimate:
    """The kernel distance over all pairs: unbiased MMD² with (x·y/D + 1)³.

    Gretton et al., "A kernel two-sample test" (2012), eq. 3. A pair of one image with itself never counts, also where
    a resampled set has it twice. The interval is for the distance of the model itself from this reference, at any
    number of samples; of samples that differ from it by little but chance the standard error is up to 1.5 times too
    large. `real`, the kernel_mean of the reference, avoids computing it again.

    Of samples with requested classes, `strata` (N,), too few pairs are of one class: two different images of a
    class of n in N are n(n − 1) pairs in N², where independent samples have n². So those pairs count n/(n − 1) times.
    """
    real = kernel_mean(reference) if real is None else real
    features, reference = features.astype(np.float64), reference.astype(np.float64)
    count = len(features)
    weights = bootstrap_weights(count, replicates, seed, strata)
    weights = np.vstack([np.ones(count), weights]).T  # (N, 1 + R): the set itself first
    within, across = _pairs(features, weights), np.empty(count)
    for rows in blocks(count, len(reference), "kernel distance"):
        across[rows] = _kernel(features[rows], reference).mean(1)
    if strata is None:
        within = _ratio(within, count**2 - (weights**2).sum(0))
    else:
        within = _completed(within, features, weights, strata) / count**2
    found = within - 2 * across @ weights / count + real
    return from_bootstrap(found[0], found[1:])


def _pairs(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of the kernel over all pairs of different images, for each column of weights (N, W); (W,)."""
    found = np.zeros(weights.shape[1])
    for rows in blocks(len(features), len(features), "kernel of the samples"):
        found += (weights[rows] * (_off_diagonal(features, rows) @ weights)).sum(0)
    return found


def _completed(within: np.ndarray, features: np.ndarray, weights: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Those sums with the pairs of one class weighted up to as many as independent samples have."""
    sums, means, squares = [], [], []
    for label in np.unique(strata):
        members = strata == label
        mine = weights[members]
        squares.append(mine.sum(0) ** 2)
        sums.append(_pairs(features[members], mine))
        means.append(_ratio(sums[-1], squares[-1] - (mine**2).sum(0)))
    # A class of a single image has no pair: its pairs are taken to be as those of the other classes, and where none
    # has one, as all pairs are.
    known = ~np.isnan(means)  # (K, W)
    others = _ratio(np.where(known, means, 0).sum(0), known.sum(0))
    others = np.where(known.any(0), others, _ratio(within, len(weights) ** 2 - (weights**2).sum(0)))
    return within - np.sum(sums, 0) + (np.array(squares) * np.where(known, means, others)).sum(0)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means (W,) of sums over so many; NaN where there are none."""
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    found = first @ second.T / first.shape[1] + 1
    return found * found * found


def _off_diagonal(features: np.ndarray, rows: slice) -> np.ndarray:
    """Rows of the kernel of a set with itself, the diagonal 0."""
    kernel = _kernel(features[rows], features)
    kernel[np.arange(len(kernel)), np.arange(len(kernel)) + rows.start] = 0
    return kernel
