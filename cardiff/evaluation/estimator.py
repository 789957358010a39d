"""All metrics of one set of features, and what is measured of each class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict

import numpy as np

from cardiff.evaluation.features.extraction import RealImages
from cardiff.evaluation.metrics.classes import mean_distance, relative_diversity
from cardiff.evaluation.metrics.frechet import (
    Extrapolation,
    Gaussian,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    frechet_terms,
)
from cardiff.evaluation.metrics.inception_score import inception_estimate
from cardiff.evaluation.metrics.intervals import Estimate, bootstrap_weights, from_bootstrap, share
from cardiff.evaluation.metrics.kernel import kernel_distance, kernel_estimate, kernel_mean
from cardiff.evaluation.metrics.memorisation import Memorisation, memorisation
from cardiff.evaluation.metrics.neighbours import squared_reach
from cardiff.evaluation.metrics.registry import METRICS, PRDC
from cardiff.progress import shown

ClassRow = TypedDict(
    "ClassRow",
    {
        "class": str,
        "images": int,  # samples
        "real_images": int,
        "share_of_the_data": float,
        "accuracy": float | None,
        "distance": float | None,  # kernel distance to the real images of the class
        "diversity": float | None,  # relative to that of the real images
    },
)
"""What was measured of one class; None where it could not be measured."""


@dataclass
class Measured:
    """The measurement of one set of images."""

    count: int
    """Number of images."""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    per_class: list[ClassRow] = field(default_factory=list)
    confusion: np.ndarray | None = None
    """Images by requested class (rows) and predicted class (columns), int (K, K)."""
    predicted: np.ndarray | None = None
    """Predicted class of each image, (N,)."""
    memorisation: Memorisation | None = None
    balanced: float | None = None
    """The Fréchet distance with the samples weighted so that the predicted classes are as frequent as in the data."""
    terms: tuple[float, float] | None = None
    """The two terms of the Fréchet distance: of the means and of the covariances."""
    extrapolation: Extrapolation | None = None
    """The Fréchet distance at several numbers of images, behind fid_infinity."""
    missing: dict[str, str] = field(default_factory=dict)
    """Estimates that could not be made, and why."""


class Estimator:
    """Computes metrics from features.

    Args:
        metrics: Names of `METRICS`; what they need was checked by `Protocol`.
        reference: The real images.
        held_out: Real images that the model was not trained on, for memorisation.
        columns: The accuracy classifier's logit for each class of the reference, (K,); None without a classifier.
        replicates: Bootstrap replicates behind every interval.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        reference: RealImages,
        held_out: RealImages | None,
        columns: list[int] | None,
        replicates: int,
    ):
        self.metrics, self.reference, self.held_out = metrics, reference, held_out
        self.columns, self.replicates = columns, replicates

    def measure(
        self,
        features: np.ndarray,
        logits: np.ndarray | None,
        class_logits: np.ndarray | None,
        labels: np.ndarray | None,
        *,
        metrics: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Measured:
        """Compute the metrics of one set of images.

        With requested classes the number of samples of each is fixed, so sets are resampled class by class.

        Args:
            features: (N, D).
            logits: Of the network whose features these are, (N, K); None without a head.
            class_logits: Of the accuracy classifier, (N, K); None without one.
            labels: The requested classes, (N,); None for samples without labels.
            metrics: Names of `METRICS`; all of the estimator's by default.
            seed: Of the resampling.
        """
        metrics = self.metrics if metrics is None else metrics
        measured = Measured(len(features))
        if self.columns is not None and class_logits is not None:
            measured.predicted = class_logits[:, self.columns].argmax(1)
        by = labels if labels is not None else measured.predicted
        turns = shown(metrics, "measuring", delay=0)
        for metric in turns:
            turns.set_description(metric)
            self._estimate(metric, measured, features, logits, labels, by, seed)
        if by is not None and self._by_class is not None:
            self._describe_classes(measured, features, self._by_class, labels, by, metrics)
        for name in (name for metric in metrics for name in METRICS[metric]):
            if name not in measured.estimates:
                measured.missing[name] = self._why_missing(name, by)
        return measured

    def _estimate(
        self,
        metric: str,
        measured: Measured,
        features: np.ndarray,
        logits: np.ndarray | None,
        labels: np.ndarray | None,
        by: np.ndarray | None,
        seed: int,
    ) -> None:
        """Add what one metric yields; `by` are the requested or predicted classes (N,), if they are known."""
        found, reference, replicates = measured.estimates, self.reference, self.replicates
        if metric == "fid":
            found["fid"] = frechet_estimate(features, reference.gaussian, replicates, seed, labels)
            measured.terms = frechet_terms(features, reference.gaussian)
        elif metric == "fid_infinity":
            measured.extrapolation = frechet_infinity(features, reference.gaussian, replicates, seed, labels)
            found["fid_infinity"] = measured.extrapolation.estimate
        elif metric == "kid":
            found["kid"] = kernel_estimate(features, self._real_features, replicates, seed, self._real_kernel, labels)
        elif metric == "is":
            assert logits is not None, "checked by Protocol"
            found["is"] = inception_estimate(logits, replicates, seed, labels)
        elif metric == "prdc":
            for names, compute, k in PRDC:
                estimates = compute(features, self._real_features, k, replicates, seed, self._real_reach[k], labels)
                found |= dict(zip(names, estimates))
        elif metric == "accuracy" and measured.predicted is not None:
            self._classify(measured, features, measured.predicted, labels, seed)
        elif metric == "diversity" and by is not None and self._by_class is not None:
            diversity = relative_diversity(features, by, self._real_diversity, replicates, seed)
            found |= {} if diversity is None else {"diversity": diversity}
        elif metric == "memorisation":
            assert self.held_out is not None and self.held_out.features is not None, "checked by Protocol"
            measured.memorisation = memorisation(features, self._real_features, self.held_out.features)

    def _why_missing(self, name: str, by: np.ndarray | None) -> str:
        """Why an estimate could not be made."""
        if name == "diversity" and self._by_class is None:
            return "the reference has no labels"
        if name == "diversity" and by is not None:
            return "too few classes have two samples and two different real images"
        return "these images have no labels"

    @property
    def _real_features(self) -> np.ndarray:
        assert self.reference.features is not None, "checked by Protocol"
        return self.reference.features

    @cached_property
    def _real_kernel(self) -> float:
        return kernel_mean(self._real_features)

    @cached_property
    def _real_reach(self) -> dict[int, np.ndarray]:
        return {k: squared_reach(self._real_features, k) for _, _, k in PRDC}

    @cached_property
    def _by_class(self) -> list[np.ndarray] | None:
        """Features of the reference's images of each class; None without labels or features."""
        labels, features = self.reference.labels, self.reference.features
        if labels is None or features is None:
            return None
        return [np.asarray(features[labels == label]) for label in range(len(self.reference.class_names))]

    @cached_property
    def _real_diversity(self) -> np.ndarray:
        """Mean distance between two real images of each class, (K,); NaN for a class of one image."""
        assert self._by_class is not None, "callers check it"
        return np.array([mean_distance(members) for members in self._by_class])

    def _classify(
        self,
        measured: Measured,
        features: np.ndarray,
        predicted: np.ndarray,
        labels: np.ndarray | None,
        seed: int,
    ) -> None:
        """Whether samples are classified as the requested class, and how frequent the classes are."""
        count, replicates, real_labels = len(self.reference.class_names), self.replicates, self.reference.labels
        assert real_labels is not None, "checked by Protocol"
        if labels is not None:
            measured.estimates["accuracy"] = share(np.equal(predicted, labels), replicates, seed, labels)
            measured.confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
        in_data = np.bincount(real_labels[real_labels >= 0], minlength=count)
        in_data = in_data / in_data.sum()
        which = np.eye(count)[predicted]  # (N, K)
        weights = bootstrap_weights(len(predicted), replicates, seed, labels)
        shares = np.concatenate([which.sum(0)[None], weights @ which]) / len(predicted)  # (1 + R, K)
        shifts = np.abs(shares - in_data).sum(1) / 2  # total variation
        measured.estimates["class_shift"] = from_bootstrap(shifts[0], shifts[1:])
        if "fid" in measured.estimates and (shares[0] > 0).all():
            evened = Gaussian.of(features, weights=(in_data / shares[0])[predicted])
            measured.balanced = frechet_distance(evened, self.reference.gaussian)

    def _describe_classes(
        self,
        measured: Measured,
        features: np.ndarray,
        real_by_class: list[np.ndarray],
        labels: np.ndarray | None,
        by: np.ndarray,
        metrics: Sequence[str],
    ) -> None:
        """A row for each class: number of samples, accuracy, distance to its real images, diversity."""
        total = sum(len(real) for real in real_by_class)
        classes = shown(zip(self.reference.class_names, real_by_class), "classes", len(real_by_class))
        for label, (name, real) in enumerate(classes):
            members = features[by == label]
            predicted = None if measured.predicted is None or labels is None else measured.predicted[by == label]
            enough = len(members) > 1 and len(real) > 1
            row: ClassRow = {
                "class": name,
                "images": len(members),
                "real_images": len(real),
                "share_of_the_data": len(real) / total,
                "accuracy": float((predicted == label).mean()) if predicted is not None and len(predicted) else None,
                "distance": kernel_distance(members, real) if "kid" in metrics and enough else None,
                "diversity": None,
            }
            if "diversity" in metrics and enough and self._real_diversity[label] > 0:
                row["diversity"] = mean_distance(members) / float(self._real_diversity[label])
            measured.per_class.append(row)
