"""Words for figures: numbers as they are printed, and the warnings of figures that contradict each other."""

import numpy as np
import pytest

from cardiff.evaluation.metrics.neighbours import density_coverage, precision_recall
from cardiff.evaluation.reports.wording import contradictions, interval, number


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.123456, "0.123"), (12345.6, "12346"), (1e-7, "1.00e-07")])
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_an_interval_ends_where_the_figure_does():
    assert interval({"low": -0.25, "high": 1.5}, "recall") == "0 to 1.00"
    assert interval({"low": 0.25, "high": 0.5}, "recall") == "0.250 to 0.500"
    assert interval({"low": -0.25, "high": 1.5}, "kid") == "-0.250 to 1.50"


def figures_of(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    names = ("precision", "recall", "density", "coverage")
    estimates = [*precision_recall(samples, real, replicates=2), *density_coverage(samples, real, replicates=2)]
    return {name: estimate.value for name, estimate in zip(names, estimates)}


@pytest.fixture
def real():
    """Two hundred images of 64 independent pixels."""
    return np.random.default_rng(0).normal(size=(200, 64))


def test_samples_in_the_middle_of_the_data_are_warned_of(real):
    """Nearly grey images: by pixels they lie within reach of most real images, and no real image lies near them."""
    grey = 0.1 * np.random.default_rng(1).normal(size=(100, 64))
    found = figures_of(grey, real)
    assert found["precision"] == 1 and found["recall"] == 0 and found["density"] > 10
    of_density, of_precision = contradictions(found)
    assert of_density.startswith(f"Density is {number(found['density'])}, where that of the data is 1:")
    assert of_precision.startswith("Precision is 1.00 and recall 0: nearly every sample")


def test_samples_far_apart_are_warned_of():
    real = np.random.default_rng(0).normal(size=(200, 4))
    wide = np.random.default_rng(1).normal(size=(100, 4)) * 40
    (sentence,) = contradictions(figures_of(wide, real))
    assert sentence.startswith("Recall is 1.00 and precision 0")


def test_samples_as_the_data_are_not_warned_of(real):
    same = np.random.default_rng(2).normal(size=(200, 64))
    found = figures_of(same, real)
    assert found["density"] == pytest.approx(1, abs=0.35)
    assert contradictions(found) == []
    # What strong guidance makes of the digits (docs/evaluation/digits): density 1.3, precision .97, recall .26.
    assert contradictions({"density": 1.36, "precision": 0.97, "recall": 0.18, "coverage": 0.9}) == []
    assert contradictions({"fid": 3.0}) == []
