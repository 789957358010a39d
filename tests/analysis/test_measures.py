"""The measures of a schedule against closed forms and sums done another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from cardiff.analysis.measures import GRID, MAX_LEAK, first_below, measure_data, measure_schedule, merged, wiener_ssim
from cardiff.analysis.spectra import fit_gaussian
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def digits():
    config = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
    store = open_store(config, conditional=True)
    return measure_data(np.asarray(store.images), store.labels)


@pytest.fixture(scope="module")
def measured(digits):
    tables = {name: SCHEDULES[name].alphas_bar(1000) for name in ("linear", "cosine", "edm_lognormal")}
    return {name: measure_schedule(name, table, digits) for name, table in tables.items()}


def test_structure_is_the_mean_of_the_octaves(digits, measured):
    spectrum = digits.model.spectrum
    for m in measured.values():
        np.testing.assert_allclose(m.structure, spectrum.structure(m.log_snr), atol=1e-4)
        by_hand = [spectrum.gain(m.log_snr)[:, spectrum.octaves == k].mean(1) for k in range(5)]
        np.testing.assert_allclose(m.octaves, np.stack(by_hand, 1), atol=1e-4)
        assert m.mean_structure == pytest.approx(np.mean(by_hand), abs=1e-4)


def test_half_lives(measured):
    m = measured["cosine"]
    for octave, half_life in zip(m.octaves.T, m.octave_half_lives):
        i = round(half_life * 1000) - 1
        assert octave[i] < 0.5 <= octave[i - 1]
    # The finest octave dies first; the image's mean has less power than the octave above it.
    assert m.octave_half_lives[4] < m.octave_half_lives[3] < m.octave_half_lives[2] < m.octave_half_lives[1]
    assert first_below(np.array([3.0, 2.0]), 1.0) == 1.0


def test_path_kl_is_the_divergence_of_each_step(digits, measured):
    """Between the true reverse step q(x_p|x_s) and the one with DDPM's variance around the same mean, per mode."""
    m, spectrum = measured["linear"], merged(digits.model.spectrum)
    for step in (3, 200, 800):
        abar_p, abar_s = m.alphas_cumprod[step], m.alphas_cumprod[step + 1]
        beta = 1 - abar_s / abar_p
        assumed = beta * (1 - abar_p) / (1 - abar_s)
        total = abar_s * spectrum.variances + 1 - abar_s
        image = (abar_p * beta**2 / (1 - abar_s) ** 2) * spectrum.variances * (1 - abar_s) / total
        q = Normal(torch.zeros(len(total)).double(), torch.from_numpy(np.sqrt(assumed + image)))
        p = Normal(torch.zeros(len(total)).double(), np.sqrt(assumed))
        expected = kl_divergence(q, p).numpy() @ spectrum.counts
        assert m.path_kl[step] == pytest.approx(expected, rel=1e-6)


def test_information_stays_below_its_bounds(digits, measured):
    m = measured["cosine"]
    assert (m.information <= m.information_bound + 0.02).all()
    assert m.information.max() == pytest.approx(np.log(1797), abs=1e-3)
    assert (m.class_information <= m.information + 1e-3).all()
    spectrum = digits.model.spectrum
    expected = 0.5 * np.log1p(np.exp(m.log_snr[400]) * spectrum.variances).sum()
    assert m.information_bound[400] == pytest.approx(expected, rel=1e-3)


def test_leaking_and_idling(measured):
    assert measured["edm_lognormal"].leaks and not measured["cosine"].leaks
    assert measured["cosine"].leak < MAX_LEAK < measured["edm_lognormal"].leak
    # Linear spends over a third of its steps where every octave of the digits is gone; lognormal hardly any.
    assert measured["linear"].idle_noise > 0.35 > 0.05 > measured["edm_lognormal"].idle_noise
    assert measured["linear"].idle_clean == 0


def test_shares_of_idle_steps_and_the_half_life(measured):
    """Of shares that are written here: 95% of every octave is whole, 5% of every one is gone, half is half."""
    octaves = np.array([[0.99, 0.96], [0.99, 0.94], [0.94, 0.6], [0.6, 0.3], [0.3, 0.2], [0.08, 0.04], [0.04, 0.0]])
    m = replace(measured["cosine"], octaves=octaves, structure=octaves.mean(1))
    assert m.idle_clean == pytest.approx(1 / 7)  # both above 0.95, in the first alone
    assert m.idle_noise == pytest.approx(1 / 7)  # both below 0.05, in the last alone
    assert m.half_life == pytest.approx(4 / 7)  # 0.45 is the first mean below 0.5
    assert m.octave_half_lives == pytest.approx([5 / 7, 4 / 7])
    assert first_below(np.array([0.4, 0.2]), 0.5) == 0.5


def test_as_many_steps_as_timesteps(digits):
    """T steps of T are measured, and more than T are left out."""
    m = measure_schedule("cosine", SCHEDULES["cosine"].alphas_bar(50), digits)
    assert list(m.errors) == [("ddpm", 10), ("ddpm", 50), ("ddim", 10), ("ddim", 50)]
    assert measure_schedule("cosine", SCHEDULES["cosine"].alphas_bar(49), digits).errors.keys() == {
        *(("ddpm", 10), ("ddim", 10))
    }


def test_max_beta(measured):
    assert measured["linear"].max_beta == pytest.approx(0.02)
    assert measured["cosine"].max_beta == pytest.approx(0.999)


def test_similarity_falls_from_one(digits):
    assert digits.ssim[-1] > 0.98 and digits.ssim[0] < 0.45
    assert (np.diff(digits.ssim) > -0.01).all()


def test_similarity_of_a_perfect_estimate():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    found = wiener_ssim(images, fit_gaussian(images), np.array([30.0]), count=10)
    assert found[0] == pytest.approx(1, abs=1e-6)


def test_merged_bands_change_nothing_that_is_measured(digits):
    spectrum, fewer = digits.model.spectrum, merged(digits.model.spectrum)
    assert len(fewer.variances) < len(spectrum.variances) / 2
    assert fewer.total_variance == pytest.approx(spectrum.total_variance, rel=1e-12)
    np.testing.assert_allclose(fewer.structure(GRID), spectrum.structure(GRID), atol=1e-4)
    assert fewer.leak(-7.0) == pytest.approx(spectrum.leak(-7.0), rel=1e-6)


def test_bands_of_many_modes_are_merged_by_their_modes():
    """Means over modes and not over bands: 30 modes of variance 1 and 10 of 1.01 in one octave, apart from another."""
    spectrum = Spectrum([1.0, 1.01, 1.0], [30, 10, 5], np.array([1, 1, 2]), [4.0, 8.0, 1.0])
    fewer = merged(spectrum, resolution=0.1)
    np.testing.assert_allclose(fewer.variances, [1.0025, 1.0])
    np.testing.assert_allclose(fewer.mean_powers, [5.0, 1.0])
    np.testing.assert_array_equal(fewer.counts, [40, 5])
    np.testing.assert_array_equal(fewer.octaves, [1, 2])
