"""An independent classifier of small images, to measure whether samples belong to the requested class."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Predictor(Protocol):
    """What scikit-learn's classifiers have."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Classes (N,) of features (N, D)."""


@dataclass
class ImageClassifier:
    """A support vector machine on pixels, for small grey images such as the digits."""

    model: Predictor
    held_out_accuracy: float
    """Accuracy on real images that it was not trained on."""

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of uint8 images, any (N, …), that are classified as `labels` (N,)."""
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


def _features(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255
