"""The local error against its closed form for Gaussian data, and the finite set's denoiser against plain sums."""

import numpy as np
import pytest
import torch

from cardiff.analysis.local_error import (
    LEVELS,
    finite_set_denoiser,
    local_error_work,
    measured_local_error,
    network_denoiser,
    schedule_of_local_error,
)
from cardiff.analysis.spectra import to_float
from cardiff.diffusion.levels import log_snr_of
from cardiff.schedulers import SCHEDULES
from tests.support.tiny_models import gaussian_pipeline


def test_local_error_of_gaussian_data():
    """e = √ℓ·w(1 − w)/8, the second-order loss of cos Δθ with Δθ = ½√(w(1 − w))·Δλ."""
    variance = 0.1
    rng = np.random.default_rng(0)
    images = np.clip(np.rint((rng.normal(0, variance**0.5, (400, 1, 8, 8)) + 1) * 127.5), 0, 255).astype(np.uint8)

    def denoise(x, log_snr):
        a2 = 1 / (1 + np.exp(-log_snr))
        return np.sqrt(a2) * variance / (a2 * variance + 1 - a2) * x

    levels = np.array([-4.0, -1.0, 1.2, 3.0, 6.0])
    found = measured_local_error(denoise, images, levels, count=400, step=0.1, fine=0.02)
    gain = 1 / (1 + np.exp(-(levels + 0.05)) / variance)  # in the middle of the step
    np.testing.assert_allclose(found, np.sqrt(variance) * gain * (1 - gain) / 8, rtol=0.05, atol=4e-5)


def test_finite_set_denoiser_is_the_posterior_mean():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    x, level = torch.from_numpy(rng.standard_normal((5, 3, 4, 4))).float(), -1.5
    a, sigma2 = 1 / np.sqrt(1 + np.exp(-level)), 1 / (1 + np.exp(level))
    data = torch.from_numpy(to_float(images)).float()
    weights = torch.softmax(-((x[:, None] - a * data) ** 2).sum((2, 3, 4)) / (2 * sigma2), dim=1)
    expected = torch.einsum("bn,nchw->bchw", weights, data)
    torch.testing.assert_close(finite_set_denoiser(images)(x, level), expected, rtol=1e-4, atol=1e-5)


def test_local_error_of_a_finite_set_lies_where_the_image_is_decided():
    """Two images: nothing is decided when both are lost in noise, and nothing is left once one has been chosen."""
    images = np.stack([np.zeros((1, 4, 4)), np.full((1, 4, 4), 255)]).astype(np.uint8).repeat(50, axis=0)
    levels = np.arange(-12.0, 8.0, 1.0)
    local_error = measured_local_error(finite_set_denoiser(images), images, levels, count=100)
    peak = levels[local_error.argmax()]
    assert -4 < peak < 0  # SNR·16 is about 1
    assert local_error[0] < 0.02 * local_error.max() and local_error[-1] < 0.02 * local_error.max()


@pytest.mark.parametrize("levels", [LEVELS, np.array([12.9]), np.array([-3.0, 12.5])])
def test_progress_comes_with_every_step_and_not_with_every_level(levels):
    """A level of a large network can take minutes."""
    images, calls = np.zeros((3, 1, 4, 4), np.uint8), []
    measured_local_error(lambda x, log_snr: x, images, levels, count=3, progress=calls.append)
    assert sum(calls) == len(calls) == local_error_work(levels)
    assert len(calls) > 5 * len(levels) or levels.max() > 12


def test_schedule_of_a_local_error_spends_its_steps_where_it_is_high():
    levels = np.arange(-10.0, 12.1, 0.5)
    local_error = np.exp(-((levels - 2) ** 2) / 8)
    section = schedule_of_local_error(levels, local_error, last=-10.0, first=12.0)
    log_snr = log_snr_of(SCHEDULES[section.pop("name")].alphas_bar(1000, **section))
    share = ((log_snr > -1) & (log_snr < 5)).mean()
    inside = (levels > -1) & (levels < 5)
    expected = np.sqrt(local_error)[inside].sum() / np.sqrt(local_error).sum()
    assert share == pytest.approx(expected, abs=0.05)
    assert (np.diff(log_snr) < 0).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_network_denoiser_gives_the_clean_image(prediction_type):
    """Of a network that is exact, the posterior mean; it is asked without a label, which is class 1 here."""
    trained = SCHEDULES["cosine"](prediction_type=prediction_type, clip_sample=False).to_stock()
    pipeline = gaussian_pipeline(trained, trained, means=[0.9, 0.2], variances=[0.1, 0.3], sample_size=4)
    level = log_snr_of(trained.alphas_cumprod.double().numpy())[400]
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a2 = 1 / (1 + np.exp(-level))
    expected = 0.2 + np.sqrt(a2) * 0.3 / (a2 * 0.3 + 1 - a2) * (x - np.sqrt(a2) * 0.2)
    torch.testing.assert_close(network_denoiser(pipeline)(x, level), expected, rtol=1e-4, atol=1e-5)


def test_network_denoiser_clips_as_the_sampler_does():
    trained = SCHEDULES["cosine"](prediction_type="sample").to_stock()
    pipeline = gaussian_pipeline(trained, trained, means=[3.0], variances=[1e-3], sample_size=4)
    assert (network_denoiser(pipeline)(torch.zeros(1, 1, 4, 4).double(), 0.0) == 1).all()
