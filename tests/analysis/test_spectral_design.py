"""The designed levels against a search by brute force, and their distances against written-out sums."""

import itertools

import numpy as np
import pytest
import torch

from cardiff.analysis import spectral_design
from cardiff.analysis.errors import SOLVERS, sampling_error
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import Optimum
from cardiff.analysis.spectra import fit_gaussian
from cardiff.analysis.spectral_design import LAST, designed_levels, distance_of
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.levels import log_snr_of, visited_levels
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum, spectrum_from_octaves
from tests.conftest import ROOT

SPECTRUM = spectrum_from_octaves([[40.0], [8.0], [1.5], [0.2], [0.03]], 16, mean_square=0.1)
DISTANCES = ("w2", "kl")


def distance(levels, solver, kind) -> float:
    return float(distance_of(SPECTRUM, torch.from_numpy(np.array(levels, dtype=np.float64)), solver, kind))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", DISTANCES)
def test_no_levels_of_a_fine_grid_are_better(solver, kind):
    """Three steps: every pair above the given noisiest level, a tenth of a nat apart."""
    grid = np.arange(LAST + 0.1, 8, 0.1)
    best = min(distance([clean, middle, LAST], solver, kind) for middle, clean in itertools.combinations(grid[::3], 2))
    found = designed_levels(SPECTRUM, solver, 3, kind)
    reached = distance(found, solver, kind)
    assert found[-1] == LAST and (np.diff(found) < 0).all()
    assert reached <= best < 1.02 * reached
    for place, change in itertools.product((0, 1), (-0.05, 0.05)):
        moved = found.copy()
        moved[place] += change
        assert distance(moved, solver, kind) > reached


def test_distances_are_those_of_two_normal_distributions():
    """Ancestral sampling of one mode in one step, followed by hand: x₀ = w·x_T/a with x_T from N(0, 1)."""
    variance, mean, level = 0.3, 0.2, -1.0
    spectrum = Spectrum(np.array([variance]), np.array([5.0]), np.array([0]), np.array([mean**2]))
    a2 = 1 / (1 + np.exp(-level))
    slope = np.sqrt(a2) * variance / (a2 * variance + 1 - a2)  # of E[x₀ | x_T]
    sampled = slope**2
    missed = mean - (mean - slope * np.sqrt(a2) * mean)  # the data's x_T has the mean a·μ, the noise 0
    w2 = 5 * ((np.sqrt(sampled) - np.sqrt(variance)) ** 2 + missed**2)
    kl = 5 / 2 * (sampled / variance - 1 - np.log(sampled / variance) + missed**2 / variance)
    levels = torch.tensor([level], dtype=torch.float64)
    assert float(distance_of(spectrum, levels, "ddim", "w2")) == pytest.approx(w2, rel=1e-9)
    assert float(distance_of(spectrum, levels, "ddim", "kl")) == pytest.approx(kl, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_not_our_optimum_but_near_it(solver):
    """The given last level costs little; a free one, under no bound on the leak, gains on both."""
    start = log_snr_of(SCHEDULES["cosine"].alphas_bar(1000))
    ours = visited_levels(Optimum(SPECTRUM, solver, 5).best(0.0, 1.0, start), 5)
    theirs, free = (designed_levels(SPECTRUM, solver, 5, "w2", last) for last in (LAST, None))
    errors = [sampling_error(SPECTRUM, levels, solver).pixels for levels in (free, ours, theirs)]
    assert errors[0] < 0.95 * min(errors[1:]) and errors[2] == pytest.approx(errors[1], rel=0.05)
    assert SPECTRUM.leak(free[-1]) > 1e-3 > SPECTRUM.leak(theirs[-1])


def test_the_information_distance_spends_its_steps_where_every_mode_counts_the_same():
    """KL weighs relative errors of all modes equally, and most modes are of the finest octave."""
    w2, kl = (designed_levels(SPECTRUM, "ddim", 10, kind) for kind in DISTANCES)
    assert kl[:-1].mean() > w2[:-1].mean() + 1.5


def test_the_search_does_not_end_in_the_worse_of_two_minima(monkeypatch):
    """On the digits, where one start in four does."""
    data = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
    spectrum = merged(fit_gaussian(np.asarray(open_store(data, conditional=False).images)).spectrum, 0.1)

    def reached() -> float:
        levels = torch.from_numpy(designed_levels(spectrum, "ddim", 4, "kl", last=None))
        return float(distance_of(spectrum, levels, "ddim", "kl"))

    found = reached()
    monkeypatch.setattr(spectral_design, "STARTS", 12)
    assert found == pytest.approx(reached(), rel=1e-3)
