"""Uncertainty of figures: replicates, standard errors and 95% intervals, for all metrics and for paired differences.

A figure comes with replicates of itself: what it would have been with other images of the same kind. Their spread is
its standard error, and where two figures were replicated together, the spread of the differences is that of the
difference.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from scipy.stats import binomtest, norm, t

from cardiff.errors import UserError

LEVEL = 0.95
"""Level of the intervals in a report."""
REPLICATES = 500
"""A standard error from R replicates is itself uncertain by 1/√(2R): 3%."""
GROUPS = 20


class EstimateRecord(TypedDict):
    """A figure in JSON."""

    value: float
    standard_error: float
    low: float
    """Lower end of the interval at LEVEL."""
    high: float
    """Its upper end."""
    method: str
    """bootstrap or jackknife."""
    deviations: NotRequired[list[float]]
    """As of Estimate, where the figure is read again."""
    bounds: NotRequired[list[float] | None]
    """Likewise."""
    over_seeds: NotRequired[float]
    """Standard deviation over sampling seeds, of a mean over several."""
    seeds: NotRequired[list[float]]
    """The value of each of these seeds."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its uncertainty.

    The interval is centred at the value, since the spread of the replicates is sound where their centre is not: many
    measures grow as images are lost, and a bootstrap sample, which repeats images, is such a loss. It covers what the
    value would be on average over sets of this many images, with the reference held fixed, unless the function that
    gave it says otherwise.
    """

    value: float
    deviations: np.ndarray
    """Replicates minus their centre, scaled so that their root mean square is the standard error; (R,)."""
    method: str
    """bootstrap or jackknife."""
    bounds: tuple[float, float] | None = None
    """Ends of the interval at LEVEL, where a better one than value ± t·standard error is known."""

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.deviations))))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the interval: Student's, as the replicates may be few, or the bounds stretched to the level."""
        if self.bounds is not None:
            stretch = norm.ppf((1 + level) / 2) / norm.ppf((1 + LEVEL) / 2)
            low, high = (self.value + stretch * (end - self.value) for end in self.bounds)
            return float(low), float(high)
        reach = float(t.ppf((1 + level) / 2, len(self.deviations) - 1)) * self.standard_error
        return self.value - reach, self.value + reach

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two figures that were replicated together.

        Bounds are combined as by Zou and Donner, "Construction of confidence limits about effect measures" (2008),
        eq. 4, so that 400 of 400 minus 400 of 400 is not certain to be 0.

        Raises:
            UserError: They were replicated in different ways.
        """
        mine, its = ((e.method, len(e.deviations)) for e in (self, other))
        if mine != its:
            raise UserError(
                f"A figure with {mine[1]} {mine[0]} replicates and one with {its[1]} {its[0]} replicates have no "
                "paired difference: compute both in the same way."
            )
        value, deviations = self.value - other.value, self.deviations - other.deviations
        if self.bounds is None and other.bounds is None:
            return Estimate(value, deviations, self.method)
        (low, high), (its_low, its_high) = self.interval(), other.interval()
        rms = self.standard_error * other.standard_error
        correlation = np.mean(self.deviations * other.deviations) / rms if rms else 0.0

        def reach(mine: float, its: float) -> float:
            return float(np.sqrt(max(mine**2 + its**2 - 2 * correlation * mine * its, 0)))

        below, above = reach(self.value - low, its_high - other.value), reach(high - self.value, other.value - its_low)
        return Estimate(value, deviations, self.method, (value - below, value + above))

    def to_dict(self, with_deviations: bool = False) -> EstimateRecord:
        """For JSON; `from_dict` needs the deviations."""
        low, high = self.interval()
        record: EstimateRecord = {
            "value": self.value,
            "standard_error": self.standard_error,
            "low": low,
            "high": high,
            "method": self.method,
        }
        if with_deviations:
            record["deviations"] = [float(deviation) for deviation in self.deviations]
            record["bounds"] = None if self.bounds is None else list(self.bounds)
        return record

    @classmethod
    def from_dict(cls, record: EstimateRecord) -> "Estimate":
        """What `to_dict` wrote.

        Raises:
            UserError: It was written without deviations.
        """
        if "deviations" not in record:
            raise UserError("This figure was written without its deviations: write it again with them.")
        bounds = record["bounds"]
        ends = None if bounds is None else (bounds[0], bounds[1])
        return cls(record["value"], np.array(record["deviations"]), record["method"], ends)


def bootstrap_weights(
    count: int, replicates: int = REPLICATES, seed: int = 0, strata: np.ndarray | None = None
) -> np.ndarray:
    """How often each of `count` images is drawn in each of so many draws with replacement; int32 (R, N).

    They depend on the arguments alone, so image i of one set and image i of another, drawn from the same noise, are
    resampled together, and sets of different sizes independently.

    With `strata` (N,) each class is resampled by itself. That is for samples with requested classes: the number
    of each is fixed, so it must not be in the interval. A class of a single image has no
    spread to resample, so all of these count as one class (Wolter, "Introduction to Variance Estimation" (2007),
    section 2.5), which errs on the wide side.
    """
    rng = np.random.default_rng([seed, count])
    draws = np.empty((replicates, count), np.int32)
    classes = [np.arange(count)] if strata is None else [np.flatnonzero(strata == c) for c in np.unique(strata)]
    single = [members for members in classes if len(members) == 1]
    if len(single) > 1:
        classes = [members for members in classes if len(members) > 1] + [np.concatenate(single)]
    for row in draws:
        for members in classes:
            row[members] = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
    return draws


def jackknife_groups(count: int, groups: int = GROUPS, seed: int = 0, strata: np.ndarray | None = None) -> np.ndarray:
    """A group for each of `count` images, at random and of equal sizes; (N,), from the arguments alone.

    With `strata` (N,) every group has the classes in equal shares, as nearly as whole numbers allow.

    For statistics of nearest neighbours, which the bootstrap breaks: there a repeated image is its own neighbour.

    Raises:
        UserError: There are fewer images than groups.
    """
    if count < groups:
        raise UserError(f"{count} images are too few for {groups} groups: give at least {groups}.")
    rng = np.random.default_rng([seed, count])
    if strata is None:
        return rng.permutation(np.arange(count) % groups)
    shuffled = rng.permutation(count)
    found = np.empty(count, np.int64)
    found[shuffled[np.argsort(strata[shuffled], kind="stable")]] = np.arange(count) % groups
    return found


def from_bootstrap(value: float, replicates: np.ndarray, bounds: tuple[float, float] | None = None) -> Estimate:
    """A value and what it was on each resampled set (R,).

    A set that has one image throughout has no pairs, so what is a mean over pairs is NaN there. Of a handful of images
    there are such sets; they count as the mean of the others.
    """
    known = ~np.isnan(replicates)
    deviations = np.where(known, replicates - replicates[known].mean(), 0.0)
    return Estimate(float(value), deviations, "bootstrap", bounds)


def from_jackknife(value: float, replicates: np.ndarray) -> Estimate:
    """A value and what it was without each of G groups (G,): their spread times √(G − 1) is that of the value.

    Kott, "The delete-a-group jackknife" (2001), eq. 1.
    """
    scale = np.sqrt(len(replicates) - 1)
    # What a group adds is missing from the set without it, hence the sign.
    return Estimate(float(value), scale * (replicates.mean() - replicates), "jackknife")


def mean(
    values: np.ndarray, replicates: int = REPLICATES, seed: int = 0, strata: np.ndarray | None = None
) -> Estimate:
    """The mean of one number for each image (N,)."""
    values = np.asarray(values, np.float64)
    weights = bootstrap_weights(len(values), replicates, seed, strata)
    return from_bootstrap(values.mean(), weights @ values / len(values))


def share(
    successes: np.ndarray, replicates: int = REPLICATES, seed: int = 0, strata: np.ndarray | None = None
) -> Estimate:
    """The share of images that are a success, bool (N,), with the interval of Wilson (1927) for its probability.

    Unlike value ± t·standard error that is not empty where all of them are. With strata it errs on the wide side.
    """
    successes = np.asarray(successes, bool)
    found = mean(successes, replicates, seed, strata)
    bounds = binomtest(int(successes.sum()), len(successes)).proportion_ci(LEVEL, method="wilson")
    return Estimate(found.value, found.deviations, found.method, (float(bounds.low), float(bounds.high)))
