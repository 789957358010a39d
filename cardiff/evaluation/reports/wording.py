"""Explanations of metrics, and numbers as reports and model cards print them."""

import math

import numpy as np

from cardiff.evaluation.metrics.intervals import EstimateRecord

EXPLAINED = {
    "fid": "Fréchet distance at this number of images; it falls with the number, so only equal numbers are "
    "comparable.",
    "fid_infinity": "The same, extrapolated to infinitely many samples.",
    "kid": "Squared distance of the kernel means, which does not depend on the number of images.",
    "is": "How confidently the network assigns each image to one class, and how many classes there are in all.",
    "precision": "Share of the samples that lie among the real images.",
    "recall": "Share of the real images that lie among the samples.",
    "density": "Like precision, but counts how many real images each sample lies near; about 1 is as the data.",
    "coverage": "Share of the real images that have a sample near them.",
    "accuracy": "Share of the samples that are classified as the requested class.",
    "class_shift": "Share of the samples that would have to change class to match the class frequencies of the data.",
    "diversity": "Mean distance between two samples of one class; the data's is 1.",
}
RANGES = {"fid": (0, math.inf), "recall": (0, 1), "coverage": (0, 1), "density": (0, math.inf), "class_shift": (0, 1)}


MOST_DENSITY = 2.0
"""Density above which a warning is due: a real image has 1 on average, and strongly guided samples have 1.3 to 1.4."""
HIGH, LOW = 0.9, 0.1
"""Precision and recall contradict each other if one is at least the first and the other at most the second."""


def contradictions(values: dict[str, float]) -> list[str]:
    """Warnings, one sentence each, about figures that contradict each other.

    Args:
        values: Figures by name.
    """
    found = []
    density, precision, recall = (values.get(name) for name in ("density", "precision", "recall"))
    if density is not None and density > MOST_DENSITY:
        found.append(
            f"Density is {number(density)}, where that of the data is 1: the samples lie within reach of many real "
            "images at once, in the middle of the data, as averages, blurred images and weak noise do in the features "
            "of this network, so it does not mean that they are good."
        )
    if precision is None or recall is None:
        return found
    if precision >= HIGH and recall <= LOW:
        found.append(
            f"Precision is {number(precision)} and recall {number(recall)}: nearly every sample is within reach of a "
            "real image and hardly a real image within reach of a sample, so the samples are much alike or lie in the "
            "middle of the data, and precision does not mean that they look real."
        )
    if recall >= HIGH and precision <= LOW:
        found.append(
            f"Recall is {number(recall)} and precision {number(precision)}: the samples lie so far from each other, "
            "and from the data, that their reach covers it, so recall does not mean that they are as varied as the "
            "data."
        )
    return found


def name_with(distance: str, name: str) -> str:
    """The name of a metric with a network whose Fréchet distance is called `distance`."""
    called = {"fid": distance, "fid_infinity": f"{distance}∞"}
    called["is"] = "Inception score" if distance == "FID" else "class score (as the Inception score)"
    called["kid"] = "KID" if distance == "FID" else "kernel distance"
    return called.get(name, name.replace("_", " "))


def number(value: float) -> str:
    """Three significant digits, without an exponent from 1e-4 to 1e6."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))) if value else 0)}f}"
    return f"{value:.2e}"


def interval(found: EstimateRecord, name: str) -> str:
    """The two ends of an interval, cut to the range of the metric."""
    least, most = RANGES.get(name, (-math.inf, math.inf))
    return f"{number(max(found['low'], least))} to {number(min(found['high'], most))}"
