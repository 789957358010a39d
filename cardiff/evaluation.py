"""Measuring samples: does an independent classifier read them as the class that was asked for?"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist


@dataclass
class ImageClassifier:
    """A support vector machine on pixels, for small grey images such as the digits."""

    model: object
    held_out_accuracy: float
    """Share of real images it never saw that it reads correctly."""

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of uint8 images, any (N, …), that it reads as `labels` (N,)."""
        return float((self.model.predict(_features(images)) == labels).mean())


def fit_image_classifier(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> ImageClassifier:
    """Fit the classifier on three quarters of real images and test it on the rest.

    Args:
        images: uint8 (N, …).
        labels: (N,).
        seed: Seed of the split.
    """
    # scikit-learn is needed here alone and is an extra.
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    x, x_held_out, y, y_held_out = train_test_split(
        _features(images), labels, test_size=0.25, stratify=labels, random_state=seed
    )
    model = SVC(C=10, gamma="scale").fit(x, y)
    return ImageClassifier(model, float((model.predict(x_held_out) == y_held_out).mean()))


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


def _features(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255
