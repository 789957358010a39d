"""Sets of features whose distances are known, for tests of the measures."""

import numpy as np

from cardiff.evaluation.metrics.frechet import Gaussian
from cardiff.evaluation.metrics.intervals import Estimate

STANDARD = Gaussian(np.zeros(8), np.eye(8), 10**6)
"""The reference of simulations, which is known exactly."""
SCALES = np.linspace(0.7, 1.3, 8)
SHIFT = 0.2
TRUTH = 8 * SHIFT**2 + ((SCALES - 1) ** 2).sum()
"""Fréchet distance of normals with these scales and this shift from STANDARD."""
# Samples whose classes were asked for: as many of each as the data has, by design and not by chance.
CENTRES = np.random.default_rng(5).normal(size=(6, 8)) * 3
SHARES = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])


def coverage(found: list[Estimate], truth: float | None = None) -> float:
    """Share of the intervals that hold the truth, or the mean of the values."""
    truth = np.mean([one.value for one in found]) if truth is None else truth
    return np.mean([low <= truth <= high for low, high in (one.interval() for one in found)])


def shifted(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 8)) * SCALES + SHIFT


def two_sets(first: int, second: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a spectrum and a mean, as float32."""
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((dimension, dimension)) * np.arange(1, dimension + 1) ** -0.5
    sets = rng.standard_normal((first, dimension)), rng.gamma(2, 0.5, (second, dimension)) - 0.9
    return tuple((one @ mix + 1).astype(np.float32) for one in sets)


def by_design(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Normals around six centres, exactly so many around each."""
    labels = np.repeat(np.arange(6), np.round(SHARES * count).astype(int))
    return CENTRES[labels] + rng.normal(size=(len(labels), 8)), labels


def by_chance(count: int, rng: np.random.Generator) -> np.ndarray:
    return CENTRES[rng.choice(6, count, p=SHARES)] + rng.normal(size=(count, 8))
