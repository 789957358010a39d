"""The Fréchet distance of samples from real images in the features of a network; in the FID's Inception, the FID.

Features are float arrays (N, D) of samples and (M, D) of the reference. The reference is held fixed: every interval is
about other samples of the same model.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import svdvals

from cardiff.errors import UserError
from cardiff.evaluation.metrics.intervals import (
    REPLICATES,
    Estimate,
    bootstrap_weights,
    from_bootstrap,
    jackknife_groups,
)
from cardiff.evaluation.metrics.pairwise import blocks

PARTS = (2, 3, 4)
"""Numbers of subsets into which the samples are split to extrapolate the Fréchet distance."""
FEWEST = 2
"""Samples for each dimension in the smallest of these subsets.

With 1 the line overshoots by 15 to 30% of the distance it removes, with 2 by 4 to 9%, with 4 by 1 to 4%, and with less
than 1, where covariances are singular, it is meaningless (normal features of 32 dimensions).
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
        for rows in blocks(len(features), dimension, "mean of the features"):
            center += weights[rows] @ features[rows].astype(np.float64) / count
        for rows in blocks(len(features), dimension, "covariance of the features"):
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
    for rows in blocks(len(features), features.shape[1], "influence of each sample"):
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

    It is not an interval for the distance at infinitely many samples, which is lower. The replicates are those of a
    bootstrap to first order: they cost no more than the distance, and are not spread further by repeated samples, as
    those of the bootstrap itself are with few samples for each dimension (2 to 4 times). Of samples that differ from
    the reference by little but chance the standard error is up to 1.5 times too large.
    """
    weights = bootstrap_weights(len(features), replicates, seed, strata)
    changes = weights @ frechet_influence(features, reference) / len(features)
    return from_bootstrap(frechet_distance(features, reference), changes)


@dataclass(frozen=True)
class Extrapolation:
    """The Fréchet distance at several numbers of samples, and extrapolated to infinitely many."""

    estimate: Estimate
    sizes: np.ndarray
    """Numbers of samples, from all of them down; (K,)."""
    distances: np.ndarray
    """The distance at each, averaged over disjoint subsets; (K,)."""
    slope: float
    """Distance ≈ estimate.value + slope / size."""


def infinity_needs(dimension: int) -> int:
    """Smallest number of samples for which the distance can be extrapolated."""
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
    size it is averaged over disjoint subsets that together are all samples. With requested classes (`strata`) each
    subset has the class shares of all samples: random subsets would be further from the data not only because they are
    smaller. The interval is for the distance of the model itself from this reference.

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
