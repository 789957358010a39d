"""What one set of features comes to: every metric of it, and what is known of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

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


@dataclass
class Measured:
    """What the measurement of one set of images came to."""

    count: int
    estimates: dict[str, Estimate]
    per_class: list[dict] = field(default_factory=list)
    """For each class: name, images, and what could be measured of them."""
    confusion: np.ndarray | None = None
    """Images of each class asked for (rows) by class read (columns), int (K, K)."""
    read: np.ndarray | None = None
    """Class that each image is classified as, (N,)."""
    memorisation: Memorisation | None = None
    balanced: float | None = None
    """The Fréchet distance with the samples weighted until the classes read are as frequent as in the data."""
    terms: tuple[float, float] | None = None
    """The two terms of the Fréchet distance: of the means and of the covariances."""
    extrapolation: Extrapolation | None = None
    """The Fréchet distance at several numbers of images, behind fid_infinity."""
    missing: dict[str, str] = field(default_factory=dict)
    """Estimates that could not be made, and why."""
    features: np.ndarray | None = field(repr=False, default=None)


class Estimator:
    """Computes metrics from features.

    Args:
        metrics: Names of `METRICS`; what they need was checked by `Protocol`.
        reference: The real images.
        held_out: Real images that the model never saw, for memorisation.
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
        self, features, logits, class_logits, labels, *, metrics: Sequence[str] | None = None, seed: int = 0
    ) -> Measured:
        """The same from features (N, D), logits of the network and logits of the accuracy classifier.

        Where labels were asked for, their numbers are no matter of chance: sets are resampled class by class.
        """
        metrics = self.metrics if metrics is None else metrics
        measured = Measured(len(features), {}, features=features)
        if self.columns is not None and class_logits is not None:
            measured.read = class_logits[:, self.columns].argmax(1)
        by = labels if labels is not None else measured.read
        turns = shown(metrics, "measuring", delay=0)
        for metric in turns:
            turns.set_description(metric)
            self._estimate(metric, measured, logits, labels, by, seed)
        if by is not None and self._by_class is not None:
            self._describe_classes(measured, labels, by, metrics)
        for name in (name for metric in metrics for name in METRICS[metric]):
            if name not in measured.estimates:
                measured.missing[name] = self._why_missing(name, by)
        return measured

    def _estimate(self, metric: str, measured: Measured, logits, labels, by, seed: int) -> None:
        """Add what one metric yields; `by` are the samples' classes as asked for or read, if they are known."""
        features, found = measured.features, measured.estimates
        reference, replicates = self.reference, self.replicates
        if metric == "fid":
            found["fid"] = frechet_estimate(features, reference.gaussian, replicates, seed, labels)
            measured.terms = frechet_terms(features, reference.gaussian)
        elif metric == "fid_infinity":
            measured.extrapolation = frechet_infinity(features, reference.gaussian, replicates, seed, labels)
            found["fid_infinity"] = measured.extrapolation.estimate
        elif metric == "kid":
            found["kid"] = kernel_estimate(features, reference.features, replicates, seed, self._real_kernel, labels)
        elif metric == "is":
            found["is"] = inception_estimate(logits, replicates, seed, labels)
        elif metric == "prdc":
            for names, compute, k in PRDC:
                estimates = compute(features, reference.features, k, replicates, seed, self._real_reach[k], labels)
                found |= dict(zip(names, estimates))
        elif metric == "accuracy" and measured.read is not None:
            self._classify(measured, labels, seed)
        elif metric == "diversity" and by is not None and self._by_class is not None:
            diversity = relative_diversity(features, by, self._real_diversity, replicates, seed)
            found |= {} if diversity is None else {"diversity": diversity}
        elif metric == "memorisation":
            measured.memorisation = memorisation(features, reference.features, self.held_out.features)

    def _why_missing(self, name: str, by: np.ndarray | None) -> str:
        """Why there is no such estimate."""
        if name == "diversity" and self._by_class is None:
            return "the reference has no labels"
        if name == "diversity" and by is not None:
            return "too few classes have two samples and two different real images"
        return "these images have no labels"

    @cached_property
    def _real_kernel(self) -> float:
        return kernel_mean(self.reference.features)

    @cached_property
    def _real_reach(self) -> dict[int, np.ndarray]:
        return {k: squared_reach(self.reference.features, k) for _, _, k in PRDC}

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
        return np.array([mean_distance(members) for members in self._by_class])

    def _classify(self, measured: Measured, labels: np.ndarray | None, seed: int) -> None:
        """Whether samples are classified as the requested class, and how frequent the classes are."""
        read, count, replicates = measured.read, len(self.reference.class_names), self.replicates
        if labels is not None:
            measured.estimates["accuracy"] = share(read == labels, replicates, seed, labels)
            measured.confusion = np.bincount(labels * count + read, minlength=count**2).reshape(count, count)
        in_data = np.bincount(self.reference.labels[self.reference.labels >= 0], minlength=count)
        in_data = in_data / in_data.sum()
        which = np.eye(count)[read]  # (N, K)
        weights = bootstrap_weights(len(read), replicates, seed, labels)
        shares = np.concatenate([which.sum(0)[None], weights @ which]) / len(read)  # (1 + R, K)
        shifts = np.abs(shares - in_data).sum(1) / 2  # total variation
        measured.estimates["class_shift"] = from_bootstrap(shifts[0], shifts[1:])
        if "fid" in measured.estimates and (shares[0] > 0).all():
            evened = Gaussian.of(measured.features, weights=(in_data / shares[0])[read])
            measured.balanced = frechet_distance(evened, self.reference.gaussian)

    def _describe_classes(self, measured: Measured, labels, by: np.ndarray, metrics: Sequence[str]) -> None:
        """A row for each class: how many samples, how many read as it, how near its real images, how diverse."""
        total = sum(map(len, self._by_class))
        classes = shown(zip(self.reference.class_names, self._by_class), "classes", len(self._by_class))
        for label, (name, real) in enumerate(classes):
            members = measured.features[by == label]
            row = {"class": name, "images": len(members), "real_images": len(real)}
            row["share_of_the_data"] = len(real) / total
            read = None if measured.read is None or labels is None else measured.read[by == label]
            row["accuracy"] = float((read == label).mean()) if read is not None and len(read) else None
            enough = len(members) > 1 and len(real) > 1
            row["distance"] = kernel_distance(members, real) if "kid" in metrics and enough else None
            row["diversity"] = None
            if "diversity" in metrics and enough and self._real_diversity[label] > 0:
                row["diversity"] = mean_distance(members) / float(self._real_diversity[label])
            measured.per_class.append(row)
