"""Fitted steps against diffusers' solvers, and on Gaussian data against the computed optimum."""

import numpy as np
import pytest
import torch

from cardiff.analysis import fitted_steps
from cardiff.analysis.errors import sampling_error
from cardiff.analysis.fitted_steps import FITTED_SOLVERS, StepFit, fit_of, fit_steps, fit_work, integrate
from cardiff.analysis.local_error import network_denoiser
from cardiff.analysis.optimum import knots_at
from cardiff.analysis.spectral_design import designed_levels
from cardiff.config.schedules_by_name import alphas_cumprod_of
from cardiff.diffusion.levels import a_sigma, log_snr_of, timesteps_at, trained_log_snr, visited_levels
from cardiff.sampling.solvers import make_solver
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum
from tests.support.tiny_models import gaussian_pipeline, tiny_pipeline

VARIANCES = np.array([2.0, 0.05])
SPECTRUM = Spectrum(VARIANCES, np.array([16.0, 48.0]), np.array([0, 1]), np.zeros(2))
"""16 modes of a large variance and 48 of a small one; a mode is a pixel here."""


def gaussian(x: torch.Tensor, log_snr: float) -> torch.Tensor:
    """The ideal denoiser of SPECTRUM."""
    variances = torch.from_numpy(np.repeat(VARIANCES, [16, 48])).reshape(1, 1, 8, 8)
    a, sigma = a_sigma(log_snr)
    return a * variances / (a**2 * variances + sigma**2) * x


def fit_of_gaussian(count: int = 200) -> StepFit:
    noise = torch.randn(2 * count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return StepFit(lambda part: gaussian, noise, (-15.0, 12.0))


@pytest.mark.parametrize(("ours", "theirs"), [("ddim", "ddim"), ("ddim", "euler"), ("dpm", "dpm")])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_trajectories_are_those_of_diffusers(ours, theirs, steps):
    trained = SCHEDULES["sigmoid"](prediction_type="v_prediction", clip_sample=False).to_stock()
    pipeline = gaussian_pipeline(trained, make_solver(trained, theirs), [0.3], [0.1], sample_size=4)
    timesteps = {"timesteps": timesteps_at(trained, np.linspace(-7, 6, steps))} if theirs != "ddim" else {}
    images = pipeline(
        num_inference_steps=steps,
        batch_size=3,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **timesteps,
    ).images

    visited = pipeline.scheduler.timesteps.long().tolist()
    levels = trained_log_snr(trained)[visited].tolist()
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    noise *= a_sigma(levels[0])[1] if theirs == "euler" else 1  # Euler starts from σ·ε
    denoise = network_denoiser(gaussian_pipeline(trained, trained, [0.3], [0.1], sample_size=4))
    _, found = integrate(denoise, noise, levels, FITTED_SOLVERS[ours])[-1]
    torch.testing.assert_close((found / 2 + 0.5).clamp(0, 1), images, rtol=0, atol=2e-5)


def test_a_trajectory_goes_on_from_any_of_its_levels():
    levels = [-6.0, -3.0, -1.0, 2.0, 5.0]
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = integrate(gaussian, x, levels, 2)
    rest = integrate(gaussian, whole[2][0], levels[2:], 2, whole[2][1], (levels[1], whole[1][1]))
    torch.testing.assert_close(rest[-1][1], whole[-1][1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_for_gaussian_data_the_fitted_levels_of_ddim_are_the_computed_ones(steps):
    """The mean square difference from the exact flow is the squared 2-Wasserstein distance."""
    computed = designed_levels(SPECTRUM, "ddim", steps, "w2", last=None)
    fit = fit_of_gaussian()
    found = fit.fit(computed + np.linspace(1.0, -1.0, steps), "ddim")
    best, reached = (sampling_error(SPECTRUM, levels, "ddim").pixels for levels in (computed, found))
    assert reached == pytest.approx(best, rel=0.03)
    np.testing.assert_allclose(found, computed, atol=0.4)

    # The error that is reported is the closed form's square root, but for the noises that were drawn.
    variance = SPECTRUM.total_variance / 64
    assert fit.error(found, "ddim") == pytest.approx(np.sqrt(reached * variance), rel=0.05)


def test_the_second_order_solver_is_fitted_to_itself():
    """No change of a single level of the result helps, and DDIM's levels are worse for it."""
    fit = fit_of_gaussian()
    found = {solver: fit.fit(np.linspace(6.0, -8.0, 5), solver) for solver in FITTED_SOLVERS}
    best = fit.error(found["dpm"], "dpm")
    assert best < 0.7 * fit.error(found["ddim"], "dpm")
    for place in range(4):  # cleanest first; the noisiest is nearly free
        for change in (-0.3, 0.3):
            moved = found["dpm"].copy()
            moved[place] += change
            assert fit.error(moved, "dpm") > best


def test_levels_of_a_section_are_visited_exactly():
    levels = np.array([6.5, 2.0, 0.3, -1.0, -2.0, -4.5, -9.0])
    section = knots_at(levels)
    np.testing.assert_allclose(visited_levels(log_snr_of(alphas_cumprod_of(section)), 7), levels, atol=1e-3)


def test_a_network_is_fitted_with_its_classes_and_within_its_levels(monkeypatch):
    monkeypatch.setattr(fitted_steps, "NOISES", 4)
    monkeypatch.setattr(fitted_steps, "TEACHER_STEPS", 12)
    pipeline, asked, calls = tiny_pipeline(), [], []
    forward = pipeline.unet.forward

    def watched(x, timestep, labels):
        asked.append((float(timestep), tuple(labels.tolist())))
        return forward(x, timestep, labels)

    monkeypatch.setattr(pipeline.unet, "forward", watched)
    (fit,) = fit_steps(pipeline, SPECTRUM, [3], "dpm", 0, calls.append)
    classes = np.arange(8) % pipeline.null_class
    assert {labels for _, labels in asked} == {tuple(classes[:4]), tuple(classes[4:])}
    assert all(0 <= t <= 999 for t, _ in asked)
    assert sum(calls) <= fit_work([3])
    assert (np.diff(fit.log_snr) < 0).all() and fit.log_snr.max() <= fitted_steps.CLEANEST + 1e-6

    same = fit_of(pipeline, 0)
    assert same.error(fit.log_snr, "dpm") == pytest.approx(fit.error, rel=1e-6)
