"""Schedules measured on small smooth images."""

import numpy as np
import pytest
from PIL import Image

from cardiff.analysis.measures import measure_data, measure_schedule
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of

HOSTILE = ["$a|b*_x.py:f", "_lead$x^{$", "Ba$$in", r"\frac{"]


@pytest.fixture(scope="module")
def data():
    return measure_data(smooth_images(40, 3, 16, seed=0), np.arange(40) % 4)


@pytest.fixture(scope="module")
def schedules(data):
    return measured(
        ["linear", "cosine", "JSD", "Laplace", "linear λ", "EDM ρ=7", "quadratic", "Cauchy", "constant"], data
    )


def smooth_images(count: int, channels: int, size: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, channels, size // 4, size // 4))
    return coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)


def measured(names, data):
    return [measure_schedule(name, alphas_cumprod_of(PUBLISHED[name]), data) for name in names]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
