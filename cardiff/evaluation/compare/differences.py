"""Differences between two runs: intervals, components, and the sentences of the report."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_ind

from cardiff.evaluation.compare.candidates import Candidate, Setting, Trial, shortest
from cardiff.evaluation.compare.comparison import Comparison
from cardiff.evaluation.metrics.registry import loss
from cardiff.evaluation.reports.evaluation import metric_name
from cardiff.evaluation.reports.wording import number


@dataclass(frozen=True)
class Difference:
    """One metric of two settings: first minus second."""

    metric: str
    value: float
    low: float
    high: float
    means: tuple[float, float]
    """The two figures."""

    @property
    def certain(self) -> bool:
        """Whether the 95% interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(first: list[Trial], second: list[Trial], metric: str) -> Difference:
    """First minus second, averaged over runs and seeds, with its 95% interval.

    With several trials on both sides the interval is Welch's, over trials, so that it holds for another training. With
    one it is that of the images, resampled together on both sides where they come from the same noise.
    """
    ours, theirs = ([trial.estimates[metric] for trial in side] for side in (first, second))
    means = _average(e.value for e in ours), _average(e.value for e in theirs)
    value = float(means[0] - means[1])
    if len(ours) > 1 and len(theirs) > 1:
        spread = ttest_ind([e.value for e in ours], [e.value for e in theirs], equal_var=False)
        low, high = spread.confidence_interval(0.95)
    elif len(ours) == len(theirs):
        low, high = ours[0].minus(theirs[0]).interval()
    else:
        error = np.hypot(*(np.sqrt(sum(e.standard_error**2 for e in side)) / len(side) for side in (ours, theirs)))
        low, high = value - 1.96 * error, value + 1.96 * error
    return Difference(metric, value, float(low), float(high), means)


def _average(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def training_cost(comparison: Comparison) -> str:
    """Whether the runs were trained at equal cost, in one sentence."""
    parts, seen, sizes = [], set(), []
    for candidate in comparison.candidates:
        model = candidate.models[0]
        seen.add(model.images_seen)
        sizes.append(model.parameters)
        images = "an unknown number of images" if model.images_seen is None else f"{model.images_seen:,} images"
        parts.append(f"{candidate.called} was trained on {images} and has {model.parameters:,} parameters")
    equal = len(seen) == 1 and None not in seen and max(sizes) <= 1.05 * min(sizes)
    verdict = "The training cost is equal." if equal else "**The training cost is not equal, or not known to be.**"
    return f"{'; '.join(parts)}. {verdict}"


def sentences(
    comparison: Comparison, ours: Candidate, setting: Setting, theirs: Candidate, other: Setting
) -> list[str]:
    """Differences of `ours` at `setting` from `theirs` at `other`: lines of Markdown, one sentence each."""
    protocol = comparison.protocol
    first, second = ours.trials[setting], theirs.trials[other]
    found = {name: difference(first, second, name) for name in protocol.names if _in_both(first, second, name)}
    said = []
    for name, gap in found.items():
        if name in ("density", "coverage", "class_shift"):
            continue
        reach = f"{number(gap.low)} to {number(gap.high)}"
        aim, (ours_is, theirs_is) = protocol.names[name], gap.means
        better = "better" if loss(ours_is, aim) < loss(theirs_is, aim) else "worse"
        what = f"{metric_name(protocol, name)} {number(abs(gap.value))} {'higher' if gap.value > 0 else 'lower'}"
        if gap.certain:
            said.append(f"{what} ({better}; 95% interval of the difference {reach}).")
        else:
            said.append(f"{what}, which is not statistically significant (95% interval of the difference {reach}).")
    said += _made_of(comparison, first, second, ours, theirs)
    return [f"**{ours.called}** ({setting}) against **{theirs.called}** ({other}):", "", *(f"- {s}" for s in said), ""]


def _in_both(first: list[Trial], second: list[Trial], name: str) -> bool:
    return all(name in trial.estimates for trial in (*first, *second))


def _made_of(
    comparison: Comparison, first: list[Trial], second: list[Trial], ours: Candidate, theirs: Candidate
) -> list[str]:
    """The parts of the Fréchet distance's difference: means, covariances, class shares, fidelity and variety."""
    said, distance = [], metric_name(comparison.protocol, "fid")
    terms = [[trial.terms for trial in side if trial.terms is not None] for side in (first, second)]
    if (len(terms[0]), len(terms[1])) == (len(first), len(second)):
        gap = np.mean(terms[0], axis=0) - np.mean(terms[1], axis=0)
        said.append(
            f"Of the difference in {distance}, {number(gap[0])} lies in the means of the features (the average image) "
            f"and {number(gap[1])} in their covariances (how images vary)."
        )
    balanced = [[trial.balanced for trial in side if trial.balanced is not None] for side in (first, second)]
    if (len(balanced[0]), len(balanced[1])) == (len(first), len(second)):
        for side, values, candidate in ((first, balanced[0], ours), (second, balanced[1], theirs)):
            plain = _average(trial.estimates["fid"].value for trial in side)
            even = _average(values)
            shift = _average(trial.estimates["class_shift"].value for trial in side)
            said.append(
                f"{candidate.called} would match the class frequencies of the data if {shift:.1%} of its "
                f"samples were of another class; with the samples weighted to match, its {distance} goes from "
                f"{number(plain)} to {number(even)}."
            )
    pairs = [(n, d) for n, d in (("precision", "fidelity"), ("recall", "variety")) if _in_both(first, second, n)]
    if len(pairs) == 2:
        moved = {word: difference(first, second, name) for name, word in pairs}
        up = [word for word, gap in moved.items() if gap.certain and gap.value > 0]
        down = [word for word, gap in moved.items() if gap.certain and gap.value < 0]
        if up and down:
            said.append(f"It gains {up[0]} at the cost of {down[0]}.")
        elif up or down:
            said.append(f"It {'gains' if up else 'loses'} {' and '.join(up or down)}.")
    return said


def guidance_sentence(comparison: Comparison, candidate: Candidate) -> str | None:
    """The effect of guidance, with the first solver and number of steps, at the common number of images."""
    start = candidate.settings[0]
    same = [s for s in candidate.settings if (s.solver, s.steps) == (start.solver, start.steps)]
    line = sorted(((s.guidance_scale, s) for s in same if s.guidance_scale is not None), key=lambda pair: pair[0])
    if len(line) < 2:
        return None
    parts = []
    for name in ("fid", "accuracy", "precision", "recall", "diversity"):
        values = [
            _average(trial.estimates[name].value for trial in candidate.first[setting])
            for _, setting in line
            if _in_both(candidate.first[setting], [], name)
        ]
        if len(values) == len(line):
            best = int(np.argmin([loss(value, comparison.protocol.names[name]) for value in values]))
            told = [f"{number(values[i])} at w = {shortest(line[i][0])}" for i in (0, best, -1)]
            called = metric_name(comparison.protocol, name)
            parts.append(f"{called} {told[0]}, best {told[1]}, {told[2]}")
    if not parts:  # none of these was measured
        return None
    count = candidate.first[start][0].count
    return (
        f"**Guidance**, {candidate.called}, {start.solver}, {start.steps} steps, {count:,} images: {'; '.join(parts)}."
    )


def class_gains(first: list[Trial], second: list[Trial]) -> list[dict]:
    """For each class: its figures on both sides and the gain in distance to the class's real images."""
    rows = []
    for number_of_class, row in enumerate(first[0].per_class):
        gains: dict = {"class": row["class"]}
        for side, trials in (("first", first), ("second", second)):
            for name in ("images", "distance", "diversity"):
                found = [trial.per_class[number_of_class][name] for trial in trials]
                values = [value for value in found if value is not None]
                gains[f"{side}_{name}"] = _average(values) if len(values) == len(found) else None
        both = gains["first_distance"], gains["second_distance"]
        gains["gain"] = None if None in both else both[1] - both[0]
        rows.append(gains)
    return rows
