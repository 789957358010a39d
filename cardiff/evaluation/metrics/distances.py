"""How far samples are from real images, in the features of a network.

Features are float arrays (N, D) of samples and (M, D) of the reference. The reference is held fixed: every interval is
about other samples of the same model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import svdvals
from scipy.spatial.distance import pdist
from scipy.special import entr, softmax
from torch_fidelity.metric_isc import isc_features_to_metric

from cardiff.errors import UserError
from cardiff.evaluation.metrics.intervals import (
    GROUPS,
    REPLICATES,
    Estimate,
    bootstrap_weights,
    from_bootstrap,
    from_jackknife,
    jackknife_groups,
    mean,
    share,
)
from cardiff.progress import shown

BLOCK = 2**25
"""Numbers in one block of a matrix that would not fit as a whole: 256 MB."""
PARTS = (2, 3, 4)
"""Numbers of subsets into which the samples are split to extrapolate the Fréchet distance."""
FEWEST = 2
"""Samples for each dimension in the smallest of these subsets.

With 1 the line overshoots by 15 to 30% of the distance it removes, with 2 by 4 to 9%, with 4 by 1 to 4%, and with less
than 1, where covariances are singular, it means nothing (normal features of 32 dimensions).
"""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The normal fitted to features."""

    mean: np.ndarray
    """float64 (D,)."""
    covariance: np.ndarray
    """float64 (D, D), unbiased."""
    count: int
    """Number of images."""

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray | None = None) -> "Gaussian":
        """Fit to features (N, D), each counted as often as `weights` (N,) says."""
        weights = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
        count, dimension = weights.sum(), features.shape[1]
        if count < 2:
            raise UserError(f"A covariance needs at least 2 images, but there are {count:.0f}.")
        center, covariance = np.zeros(dimension), np.zeros((dimension, dimension))
        for rows in _blocks(len(features), dimension, "mean of the features"):
            center += weights[rows] @ features[rows].astype(np.float64) / count
        for rows in _blocks(len(features), dimension, "covariance of the features"):
            gap = features[rows].astype(np.float64) - center
            covariance += (gap * weights[rows, None]).T @ gap
        return cls(center, covariance / (count - 1), round(count))

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric Σ^½."""
        values, vectors = np.linalg.eigh(self.covariance)
        # Directions without variance come out as ±rounding, whose root would be 1e-8 instead of nothing.
        values[values < values[-1] * len(values) * np.finfo(float).eps] = 0
        return (vectors * np.sqrt(values)) @ vectors.T


def frechet_terms(first: np.ndarray | Gaussian, second: np.ndarray | Gaussian) -> tuple[float, float]:
    """‖μ₁ − μ₂‖² and tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), whose sum is the Fréchet distance; features or normals."""
    first, second = (one if isinstance(one, Gaussian) else Gaussian.of(one) for one in (first, second))
    gap = first.mean - second.mean
    # The trace is the sum of the singular values of Σ₁^½Σ₂^½, which are exact to rounding where the roots of the
    # eigenvalues of Σ₁Σ₂ would only be to the root of it.
    root = svdvals(first.root @ second.root, overwrite_a=True).sum()
    return float(gap @ gap), float(np.trace(first.covariance) + np.trace(second.covariance) - 2 * root)


def frechet_distance(first: np.ndarray | Gaussian, second: np.ndarray | Gaussian) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) between the normals fitted to two sets of features.

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982), eq. 4. It falls with
    the number of samples, so only distances of equal numbers compare. Of a set with itself it is 0 to about
    1e-13·tr(Σ), and may be that much below.
    """
    return sum(frechet_terms(first, second))


def frechet_influence(features: np.ndarray, reference: Gaussian) -> np.ndarray:
    """How the Fréchet distance changes with the weight of each sample, (N,), with mean 0.

    2(x − μ₁)·(μ₁ − μ₂) + (x − μ₁)ᵀ(I − T)(x − μ₁), where T = Σ₂^½(Σ₂^½Σ₁Σ₂^½)^−½Σ₂^½ takes the normal of the samples
    to the reference, since the derivative of tr (Σ₁Σ₂)^½ by Σ₁ is T/2.
    """
    fitted = Gaussian.of(features)
    values, vectors = np.linalg.eigh(reference.root @ fitted.covariance @ reference.root)
    kept = values > values[-1] * len(values) * np.finfo(float).eps
    half = (reference.root @ vectors[:, kept]) * values[kept] ** -0.25  # T = half @ half.T
    found = np.empty(len(features))
    for rows in _blocks(len(features), features.shape[1], "influence of each sample"):
        gap = features[rows].astype(np.float64) - fitted.mean
        of_covariance = (gap**2).sum(1) - ((gap @ half) ** 2).sum(1)
        found[rows] = 2 * gap @ (fitted.mean - reference.mean) + of_covariance * len(features) / (len(features) - 1)
    return found - found.mean()


def frechet_estimate(
    features: np.ndarray,
    reference: Gaussian,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> Estimate:
    """The Fréchet distance at this number of samples: the interval is for its mean over sets of this size.

    It is no interval for the distance at infinitely many samples, which is lower. The replicates are those of a
    bootstrap to first order: they cost no more than the distance, and are not spread further by repeated samples, as
    those of the bootstrap itself are with few samples for each dimension (2 to 4 times). Of samples that differ from
    the reference by little but chance the standard error is up to 1.5 times too large.
    """
    weights = bootstrap_weights(len(features), replicates, seed, strata)
    changes = weights @ frechet_influence(features, reference) / len(features)
    return from_bootstrap(frechet_distance(features, reference), changes)


@dataclass(frozen=True)
class Extrapolation:
    """The Fréchet distance on its way to infinitely many samples."""

    estimate: Estimate
    sizes: np.ndarray
    """Numbers of samples, from all of them down; (K,)."""
    distances: np.ndarray
    """The distance at each, averaged over disjoint subsets; (K,)."""
    slope: float
    """Distance ≈ estimate.value + slope / size."""


def infinity_needs(dimension: int) -> int:
    """Least number of samples whose distance can be extrapolated."""
    return PARTS[0] * FEWEST * dimension


def frechet_infinity(
    features: np.ndarray,
    reference: Gaussian,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> Extrapolation:
    """The Fréchet distance at infinitely many samples: the intercept of a straight line in 1/N.

    Chong and Forsyth, "Effectively unbiased FID and Inception Score and where to find them" (2020), section 4. At each
    size it is averaged over disjoint subsets that together are all samples, each with the classes in the shares that
    all have, if they were asked for: subsets at random would be further from the data for another reason than their
    size. The interval is for the distance of the model itself from this reference.

    Raises:
        UserError: There are too few samples for such a line.
    """
    count, dimension = features.shape
    parts = np.array([part for part in PARTS if count // part >= FEWEST * dimension])
    if not len(parts):
        raise UserError(
            f"{count} samples are too few to extrapolate a Fréchet distance in {dimension} dimensions: draw at least "
            f"{infinity_needs(dimension)}, or report it at this number of samples."
        )
    at_all = frechet_estimate(features, reference, replicates, seed, strata)
    distances = []
    for part in parts:
        subset = jackknife_groups(count, part, seed, strata)
        distances.append(np.mean([frechet_distance(features[subset == n], reference) for n in range(part)]))
    # A partition into m subsets has the first-order noise of all samples and second-order noise of its own, whose
    # variance grows as m − 1. So the best line goes through the distance at all samples.
    slope = (np.array(distances) - at_all.value).sum() / (parts - 1).sum()  # in m, as 1/size = m/N
    # The intercept's noise is the first-order one, and (1 + 1/Σ(m − 1))·c/N² of the second order for all samples and
    # the fit. That is in the deviations: their variance, computed at the samples, is too large by 2c/N².
    estimate = Estimate(float(at_all.value - slope), at_all.deviations, at_all.method)
    sizes = count / np.array([1, *parts])
    return Extrapolation(estimate, sizes, np.array([at_all.value, *distances]), float(slope * count))


def kernel_mean(features: np.ndarray) -> float:
    """The mean of (x·y/D + 1)³ over all pairs of different images (N, D)."""
    features, count = features.astype(np.float64), len(features)
    total = sum(_off_diagonal(features, rows).sum() for rows in _blocks(count, count, "kernel of the real images"))
    return float(total / (count * (count - 1)))


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The value of `kernel_estimate` without strata, at least two images of each."""
    features, reference = features.astype(np.float64), reference.astype(np.float64)
    across = sum(_kernel(features[rows], reference).sum() for rows in _blocks(len(features), len(reference)))
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
    large. `real`, the kernel_mean of the reference, spares computing it once more.

    Of samples whose classes were asked for, `strata` (N,), too few pairs are of one class: two different images of a
    class of n in N are n(n − 1) pairs in N², where independent samples have n². So those pairs count n/(n − 1) times.
    """
    real = kernel_mean(reference) if real is None else real
    features, reference = features.astype(np.float64), reference.astype(np.float64)
    count = len(features)
    weights = bootstrap_weights(count, replicates, seed, strata)
    weights = np.vstack([np.ones(count), weights]).T  # (N, 1 + R): the set itself first
    within, across = _pairs(features, weights), np.empty(count)
    for rows in _blocks(count, len(reference), "kernel distance"):
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
    for rows in _blocks(len(features), len(features), "kernel of the samples"):
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


def precision_recall(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int = 3,
    replicates: int = REPLICATES,
    seed: int = 0,
    real_reach: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> tuple[Estimate, Estimate]:
    """Share of samples within reach of a real image, and of real images within reach of a sample.

    The reach of an image is the distance of its k-th neighbour in its own set: Kynkäänniemi et al., "Improved
    precision and recall metric for assessing generative models" (2019), eqs. 1 and 2.

    The interval of precision is for the probability that a sample of the model is within reach. That of recall is for
    its mean over sets of this size, from a jackknife, since repeated samples would be each other's neighbours; it
    errs on the wide side, 1.2 to 1.6 times, as the jackknife does where each sample matters only beside the others.
    `real_reach`, the squared_reach of the reference, spares computing it once more.

    Raises:
        UserError: There are no more images than neighbours.
    """
    real_reach = squared_reach(reference, neighbours) if real_reach is None else real_reach
    groups = jackknife_groups(len(features), seed=seed, strata=strata)
    reach = _reach_without(features, neighbours, groups)  # (1 + G, N)
    precise = np.empty(len(features), bool)
    recalled = np.zeros((len(reach), len(reference)), bool)
    for rows in _blocks(len(features), len(reference), "precision and recall"):
        distances = squared_distances(features[rows], reference)
        precise[rows] = (distances <= real_reach).any(1)
        for found, radii in zip(recalled, reach[:, rows]):
            found |= (distances <= radii[:, None]).any(0)
    recall = recalled.mean(1)
    return share(precise, replicates, seed, strata), from_jackknife(recall[0], recall[1:])


def density_coverage(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int = 5,
    replicates: int = REPLICATES,
    seed: int = 0,
    real_reach: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> tuple[Estimate, Estimate]:
    """Real images within whose reach a sample lies, in units of k, and the share of real images that reach a sample.

    Naeem et al., "Reliable fidelity and diversity metrics for generative models" (2020), eqs. 4 and 5.

    The intervals are for their means over sets of this size: of density, an average over samples, from the bootstrap,
    and of coverage from the jackknife, as of recall. `real_reach` is as of precision_recall.

    Raises:
        UserError: There are no more images than neighbours.
    """
    reach = squared_reach(reference, neighbours) if real_reach is None else real_reach
    groups = jackknife_groups(len(features), seed=seed, strata=strata)
    reached = np.empty(len(features))
    covered = np.zeros((GROUPS, len(reference)), bool)  # by a sample of each group
    for rows in _blocks(len(features), len(reference), "density and coverage"):
        within = squared_distances(features[rows], reference) <= reach
        reached[rows] = within.sum(1)
        for group in range(GROUPS):
            covered[group] |= within[groups[rows] == group].any(0)
    times = covered.sum(0)
    without = (times - covered > 0).mean(1)
    return mean(reached / neighbours, replicates, seed, strata), from_jackknife((times > 0).mean(), without)


def inception_estimate(
    logits: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: np.ndarray | None = None,
    splits: int = 10,
) -> Estimate:
    """exp E KL(p(y|x) ‖ p(y)) of logits (N, K), averaged over `splits` parts, as torch-fidelity has it.

    Salimans et al., "Improved techniques for training GANs" (2016), section 4. The interval is from the score of all
    samples in one, resampled.
    """
    value = isc_features_to_metric(torch.from_numpy(np.array(logits)), splits)["inception_score_mean"]
    p = softmax(logits.astype(np.float64), axis=1)
    weights = bootstrap_weights(len(p), replicates, seed, strata) / len(p)  # (R, N)
    return from_bootstrap(value, np.exp(entr(weights @ p).sum(1) - weights @ entr(p).sum(1)))


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


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """‖x − y‖² of every pair in float64; (N, M)."""
    center = second.mean(0, dtype=np.float64)
    first, second = first - center, second - center
    norms, its_norms = (first**2).sum(1), (second**2).sum(1)
    found = first @ second.T
    found *= -2
    found += norms[:, None]
    found += its_norms
    # Of near images the difference of large numbers leaves only rounding, so those are computed directly.
    near = np.argwhere(found < 1e-7 * norms[:, None])
    for rows in _blocks(len(near), first.shape[1]):
        i, j = near[rows].T
        found[i, j] = ((first[i] - second[j]) ** 2).sum(1)
    return found


def _blocks(count: int, width: int, what: str | None = None) -> Iterable[slice]:
    """Ranges of rows that make blocks of at most BLOCK numbers; with the name of the computation, its progress."""
    size = max(BLOCK // width, 1)
    blocks = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    return blocks if what is None else shown(blocks, what)


def squared_reach(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each image's k-th neighbour in its own set; (N,)."""
    return _reach_without(features, neighbours, None)[0]


def _reach_without(features: np.ndarray, neighbours: int, groups: np.ndarray | None) -> np.ndarray:
    """Squared distance of each image's k-th neighbour, first among all and then without each group; (1 + G, N).

    It is −1 for the images of the group that is left out.
    """
    members = [slice(None)] if groups is None else [np.nonzero(groups == g)[0] for g in range(GROUPS)]
    fewest = len(features) if groups is None else len(features) - len(members[0])
    if fewest <= neighbours:
        raise UserError(f"{len(features)} images are too few for the distance of neighbour {neighbours} of each.")
    found = np.empty((1 if groups is None else 1 + GROUPS, len(features)))
    for rows in _blocks(len(features), len(features), "nearest neighbours"):
        distances = squared_distances(features[rows], features)
        # The nearest of each group are all that can be among the nearest without another group.
        nearest = [_smallest(distances[:, columns], neighbours + 1) for columns in members]
        left_out = [[], *([n] for n in range(GROUPS))] if groups is not None else [[]]
        for radii, out in zip(found, left_out):
            others = np.concatenate([near for n, near in enumerate(nearest) if n not in out], 1)
            radii[rows] = _smallest(others, neighbours + 1).max(1)
    found *= 1 + 1e-9  # an image at this very distance is within reach, however its distance was rounded
    if groups is not None:
        found[1 + groups, np.arange(len(features))] = -1
    return found


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """The smallest of each row, in no order."""
    return values if values.shape[1] <= count else np.partition(values, count - 1, axis=1)[:, :count]
