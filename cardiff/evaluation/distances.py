"""How far samples are from real images, in the features of a network."""

import numpy as np
from scipy.spatial.distance import pdist


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """‖Δμ‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) between the normals fitted to two sets of features (N, D) and (M, D).

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982), eq. 4. It falls with
    the number of samples, so only distances of equal numbers compare.
    """
    gap = features.mean(0) - reference.mean(0)
    first, second = np.cov(features, rowvar=False), np.cov(reference, rowvar=False)
    # The trace of (Σ₁Σ₂)^½ is the sum of the roots of the eigenvalues of Σ₁Σ₂, which are real and not negative.
    root = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * root)


def diversity(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance between two samples of one class, averaged over the classes: features (N, D), labels (N,)."""
    of_class = [pdist(features[labels == label]).mean() for label in np.unique(labels)]
    return float(np.mean(of_class))
