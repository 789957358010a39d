"""Whether samples are copies of training images: distances to the nearest one, against those of held-out real images.

Distances are Euclidean between features (N, D), which may be pixels.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import ranksums

from cardiff.errors import UserError
from cardiff.evaluation.metrics.pairwise import BLOCK, squared_distances
from cardiff.progress import shown

FALSE_ALARMS = 0.05
"""Expected number of samples that raise an alarm by chance, among all of them."""
TAIL = 5
"""One held-out image in this many is in the lower tail, which the threshold extrapolates."""
FEWEST = 50
"""Held-out images that make a tail."""


@dataclass(frozen=True)
class Memorisation:
    """Distances of samples and of held-out real images to the nearest training images."""

    distances: np.ndarray
    """From each sample to the nearest training image; (N,)."""
    indices: np.ndarray
    """Index of that training image; (N,)."""
    held_out_distances: np.ndarray
    """From each held-out image to the nearest training image; (M,)."""
    z: float
    """How far the samples' ranks among all distances are below chance, in standard deviations: −2 is suspicious."""
    p: float
    """Probability of ranks as low as these if the samples were held-out images."""
    share_near: float
    """Share of samples nearer than the median held-out image: about 1/2 if nothing is copied."""
    threshold: float
    """Samples nearer than this raise an alarm."""

    @property
    def held_out_duplicates(self) -> int:
        """Number of held-out images that are training images; with any, the threshold is 0 and there are no alarms."""
        return int((self.held_out_distances == 0).sum())

    @property
    def alarms(self) -> np.ndarray:
        """Samples too near a training image to be explained by chance; bool (N,)."""
        return self.distances < self.threshold

    def closest(self, count: int) -> list[dict]:
        """The samples nearest to a training image, the nearest first: both indices, the distance and the alarm."""
        order = np.argsort(self.distances, kind="stable")[:count]
        columns = {"training": self.indices, "distance": self.distances, "alarm": self.alarms}
        return [{"sample": int(i), **{name: column[i].item() for name, column in columns.items()}} for i in order]

    def sentence(self) -> str:
        """What was found, for a report."""
        near = (
            f"{self.share_near:.1%} of the samples are nearer to a training image than half of the held-out real "
            f"images are (50% if nothing is copied; z = {self.z:.1f}, p = {self.p:.2g})"
        )
        if self.held_out_duplicates:
            return (
                f"{near}; {self.held_out_duplicates} of {len(self.held_out_distances)} held-out images are training "
                "images themselves, so single samples cannot be distinguished from chance."
            )
        return (
            f"{near}; {self.alarms.sum()} of {len(self.distances)} are too near to one to be explained by chance, "
            f"which {FALSE_ALARMS:g} would be."
        )

    def to_dict(self, count: int = 10) -> dict:
        """For JSON, with so many of the closest pairs."""
        return {
            "z": self.z,
            "p": self.p,
            "share_near": self.share_near,
            "threshold": self.threshold,
            "alarms": int(self.alarms.sum()),
            "held_out_duplicates": self.held_out_duplicates,
            "closest": self.closest(count),
            "sentence": self.sentence(),
        }


def memorisation(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Compare samples (N, D) with training images (T, D), and held-out images (M, D) of the same kind with them too.

    As a set by the test of Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative
    models" (2020), section 3.1; one by one by `alarm_threshold`.

    Raises:
        UserError: There are too few held-out images.
    """
    distances, indices = (found[:, 0] for found in nearest(samples, training))
    its_distances = nearest(held_out, training)[0][:, 0]
    z, p = ranksums(distances, its_distances, alternative="less")
    share_near = float((distances < np.median(its_distances)).mean())
    threshold = alarm_threshold(its_distances, len(samples))
    return Memorisation(distances, indices, its_distances, float(z), float(p), share_near, threshold)


def alarm_threshold(held_out: np.ndarray, samples: int, false_alarms: float = FALSE_ALARMS) -> float:
    """The distance below which so many false alarms are expected in all among `samples` that copy nothing.

    It is far below the least held-out distance (M,), so their lower tail is extrapolated: there P(d < r) ∝ r^m. With
    u the (k + 1)-th lowest distance and S the sum of ln(u/d) over the k below it, as in Hill, "A simple general
    approach to inference about the tail of a distribution" (1975), m·S has a Gamma(k) distribution, so that a sample
    below u is below u·exp(−c·S) with probability (1 + c)^−k, whatever m is. That allows for the error of m, which
    its estimate k/S put into the power law would not.

    Raises:
        UserError: There are too few held-out images.
    """
    count = len(held_out)
    if count < FEWEST:
        raise UserError(f"{count} held-out images are too few to measure memorisation: hold out at least {FEWEST}.")
    k = count // TAIL
    *tail, u = np.sort(held_out)[: k + 1]
    if tail[0] == 0:
        return 0.0
    c = (samples * (k + 1) / (count + 1) / false_alarms) ** (1 / k) - 1
    return float(u * np.exp(-max(c, 0) * np.log(u / np.array(tail)).sum()))


def nearest(features: np.ndarray, training: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest training images and their indices, the nearest first; (N, count) each.

    Raises:
        UserError: There are fewer training images than that.
    """
    if len(training) < count:
        raise UserError(f"{len(training)} training images are too few for the {count} nearest: ask for fewer.")
    distances, indices = np.empty((len(features), count)), np.empty((len(features), count), np.int64)
    step = max(BLOCK // len(training), 1)
    for first in shown(range(0, len(features), step), "nearest training images"):
        rows = slice(first, first + step)
        found = squared_distances(features[rows], training)
        columns = np.argpartition(found, count - 1, axis=1)[:, :count]
        columns = np.take_along_axis(columns, np.take_along_axis(found, columns, 1).argsort(1, kind="stable"), 1)
        indices[rows] = columns
        distances[rows] = np.sqrt(np.take_along_axis(found, columns, 1))
    return distances, indices
