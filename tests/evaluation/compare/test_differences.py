"""What a difference is made of and how it is put in words: every word follows from figures that are given here."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t

from cardiff.evaluation.compare.candidates import Candidate, Setting, Trial
from cardiff.evaluation.compare.differences import class_gains, difference, guidance_sentence, sentences, training_cost
from cardiff.evaluation.metrics.intervals import Estimate
from cardiff.evaluation.metrics.registry import METRICS
from cardiff.evaluation.reports.wording import number


def estimate(value: float, error: float, every: int = 1) -> Estimate:
    """A figure with this standard error; those of different `every` are independent of each other."""
    signs = np.where(np.arange(100) // every % 2, -1.0, 1.0)
    return Estimate(value, error * signs, "bootstrap")


def trial(per_class: tuple = (), **estimates: Estimate) -> Trial:
    return Trial(10, estimates, None, list(per_class), None, None, None, Path("."))


def test_trainings_may_spread_differently():
    """Welch's interval, not Student's: three trainings with variance 1, four with about 120."""
    ours, theirs = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 5.0]
    gap = difference(*([trial(fid=estimate(v, 0.0)) for v in side] for side in (ours, theirs)), "fid")
    parts = [np.var(side, ddof=1) / len(side) for side in (ours, theirs)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (ours, theirs)))
    reach = t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    gap_of_means = 2.0 - 16.25
    assert (gap.low, gap.high) == (pytest.approx(gap_of_means - reach), pytest.approx(gap_of_means + reach))


def candidate(
    name: str, trials: dict[Setting, list[Trial]], seen: int | None = 1000, parameters: int = 100
) -> Candidate:
    models = [SimpleNamespace(images_seen=seen, parameters=parameters)]
    return Candidate(name, models, list(trials), trials, trials)


def compared(*candidates: Candidate) -> SimpleNamespace:
    """As much of a Comparison as the words are made from."""
    names = {name: more for group in METRICS.values() for name, more in group.items()}
    protocol = SimpleNamespace(names=names, network=SimpleNamespace(distance="FID"))
    return SimpleNamespace(protocol=protocol, candidates=list(candidates))


def said_of(first: dict[str, float], second: dict[str, float], error: float = 0.01, **more) -> str:
    """What is said of two settings with these figures."""
    sides = []
    for every, figures in enumerate((first, second), start=1):
        sides.append(trial(**{name: estimate(value, error, every) for name, value in figures.items()}))
    for name, values in more.items():
        sides = [replace(side, **{name: value}) for side, value in zip(sides, values)]
    setting = Setting("dpm", 10, 1.0)
    ours, theirs = (candidate(name, {setting: [side]}) for name, side in zip(("ours", "theirs"), sides))
    return "\n".join(sentences(compared(ours, theirs), ours, setting, theirs, setting))


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "words"),
    [
        ("fid", 2.0, 5.0, "FID 3.00 lower (better;"),
        ("fid", 5.0, 2.0, "FID 3.00 higher (worse;"),
        ("precision", 0.75, 0.5, "precision 0.250 higher (better;"),
        ("precision", 0.5, 0.75, "precision 0.250 lower (worse;"),
        ("diversity", 0.75, 0.5, "diversity 0.250 higher (better;"),  # nearer to 1, the data's
        ("diversity", 1.5, 1.0, "diversity 0.500 higher (worse;"),
        ("diversity", 1.25, 1.5, "diversity 0.250 lower (better;"),
    ],
)
def test_better_is_what_the_metric_says(metric, ours, theirs, words):
    said = said_of({metric: ours}, {metric: theirs})
    assert f"- {words}" in said and said.startswith("**ours** (w = 1, dpm, 10 steps) against **theirs**")
    low, high = (ours - theirs + sign * t.ppf(0.975, 99) * np.sqrt(2) * 0.01 for sign in (-1, 1))
    assert f"95% interval of the difference {number(low)} to {number(high)}" in said


def test_an_uncertain_difference_is_neither_better_nor_worse():
    said = said_of({"fid": 2.0}, {"fid": 2.5}, error=1.0)
    assert (
        "better" not in said
        and "worse" not in said
        and "FID 0.500 lower, which is not statistically significant" in said
    )


def test_what_is_gained_and_what_is_paid():
    more, less = {"precision": 0.8, "recall": 0.2}, {"precision": 0.5, "recall": 0.6}
    assert "It gains fidelity at the cost of variety." in said_of(more, less)
    assert "It gains variety at the cost of fidelity." in said_of(less, more)
    assert "It gains fidelity." in said_of(more, {"precision": 0.5, "recall": 0.2})
    assert "It loses variety." in said_of({"precision": 0.5, "recall": 0.2}, {"precision": 0.5, "recall": 0.6})
    assert "It gains fidelity and variety." in said_of(
        {"precision": 0.8, "recall": 0.6}, {"precision": 0.5, "recall": 0.2}
    )


def test_what_the_distance_is_made_of():
    said = said_of({"fid": 9.0}, {"fid": 5.0}, terms=[(7.0, 2.0), (4.0, 1.0)])
    assert "3.00 lies in the means of the features" in said and "1.00 in their covariances" in said
    figures = [{"fid": 9.0, "class_shift": 0.25}, {"fid": 5.0, "class_shift": 0.5}]
    said = said_of(*figures, balanced=[8.0, 3.0])
    assert (
        "ours would match the class frequencies of the data if 25.0% of its samples" in said
        and "goes from 9.00 to 8.00" in said
    )
    assert (
        "theirs would match the class frequencies of the data if 50.0% of its samples" in said
        and "goes from 5.00 to 3.00" in said
    )


def test_one_training_against_several():
    """Without pairs the errors add up as independent ones: that of one, and that of a mean of two."""
    first, second = [trial(fid=estimate(3.0, 0.4))], [trial(fid=estimate(value, 0.6)) for value in (1.0, 2.0)]
    gap, reach = difference(first, second, "fid"), 1.96 * np.sqrt(0.4**2 + 2 * 0.6**2 / 4)
    assert gap.value == 1.5 and (gap.low, gap.high) == (pytest.approx(1.5 - reach), pytest.approx(1.5 + reach))


@pytest.mark.parametrize(
    ("costs", "equal"),
    [
        (((1000, 100), (1000, 104)), True),
        (((1000, 100), (1000, 200)), False),
        (((1000, 100), (2000, 100)), False),
        (((None, 100), (None, 100)), False),
    ],
)
def test_equal_cost(costs, equal):
    said = training_cost(compared(*(candidate(name, {}, *cost) for name, cost in zip(("a", "b"), costs))))
    assert ("The training cost is equal." in said) == equal and ("**The training cost is not equal" in said) != equal
    assert f"b was trained on {'an unknown number of' if costs[1][0] is None else f'{costs[1][0]:,}'} images" in said


def test_what_guidance_does():
    """In rising order of the scale, whatever order it was given in, and with the best by each metric's own measure."""
    figures = {2.0: (5.0, 0.6), 0.0: (9.0, 0.2), 1.0: (4.0, 0.4), 3.0: (8.0, 0.9)}
    trials = {
        Setting("dpm", 10, w): [trial(fid=estimate(fid, 1), recall=estimate(r, 1))] for w, (fid, r) in figures.items()
    }
    ours = candidate("ours", trials)
    said = guidance_sentence(compared(ours), ours)
    assert "FID 9.00 at w = 0, best 4.00 at w = 1, 8.00 at w = 3" in said
    assert "recall 0.200 at w = 0, best 0.900 at w = 3, 0.900 at w = 3" in said
    alone = candidate("alone", {Setting("dpm", 10, None): next(iter(trials.values()))})
    assert guidance_sentence(compared(alone), alone) is None


def test_gains_are_towards_the_real_images():
    """A class whose distance is smaller on the first side has gained; a class that was not measured has none."""
    rows = [
        {"class": name, "images": images, "distance": distance, "diversity": 0.5}
        for name, images, distance in (("ant", 4, 1.0), ("bee", 6, None))
    ]
    others = [{**row, "distance": 3.0, "images": 5, "diversity": 0.75} for row in rows]
    ant, bee = class_gains([trial(rows)], [trial(others)])
    assert (ant["class"], ant["gain"], ant["first_distance"], ant["second_distance"]) == ("ant", 2.0, 1.0, 3.0)
    assert (ant["first_images"], ant["second_images"], ant["second_diversity"]) == (4.0, 5.0, 0.75)
    assert (bee["class"], bee["gain"], bee["first_images"]) == ("bee", None, 6.0)


def trial_of(value: float, deviations) -> Trial:
    estimates = {"fid": Estimate(value, np.array(deviations, float), "bootstrap")}
    return Trial(10, estimates, None, [], None, None, None, Path("."))


def test_a_paired_difference_is_surer_than_its_parts():
    noise = np.random.default_rng(0).normal(size=400)
    alone = np.random.default_rng(1).normal(size=400)
    gap = difference([trial_of(3.0, noise + 0.1 * alone)], [trial_of(2.5, noise)], "fid")
    assert gap.value == pytest.approx(0.5) and gap.certain
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * 0.1, rel=0.15)
    assert gap.means == (3.0, 2.5)
    apart = difference([trial_of(3.0, noise)], [trial_of(2.5, alone)], "fid")
    assert not apart.certain and apart.low < 0 < apart.high


def test_several_trainings_are_compared_by_their_spread():
    """Welch's interval from a textbook formula: means 2 and 3, variances 1 and 1 of three each."""
    ours, theirs = ([trial_of(v, [0.0, 0.0]) for v in side] for side in ((1, 2, 3), (2, 3, 4)))
    gap = difference(ours, theirs, "fid")
    reach = 2.776445 * np.sqrt(1 / 3 + 1 / 3)  # t of 4 degrees of freedom
    assert (gap.low, gap.high) == (pytest.approx(-1 - reach, rel=1e-5), pytest.approx(-1 + reach, rel=1e-5))
