"""The closed form of the sampling error against the recursion of every step, and against diffusers' own schedulers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from cardiff.analysis.errors import error_terms, sampling_error
from cardiff.diffusion.levels import log_snr_of, visited_levels
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum

TABLES = {
    "linear": SCHEDULES["linear"].alphas_bar(1000),
    "cosine": SCHEDULES["cosine"].alphas_bar(1000),
    "spectral": SCHEDULES["spectral"].alphas_bar(1000),
}
VARIANCES = np.array([80.0, 2.0, 1.0, 0.25, 1e-2, 1e-4])
SPECTRUM = Spectrum(VARIANCES, np.array([1, 3, 5, 9, 20, 40]), np.array([0, 0, 1, 1, 2, 2]), 0.3 * VARIANCES)


def by_recursion(variance, mean, alphas_bar, solver):
    """Mean and variance of one mode, step by step: the papers' formulas with the ideal denoiser."""
    m, v = 0.0, 1.0
    before = np.concatenate([[1.0], alphas_bar[:-1]])
    for abar, abar_p in zip(alphas_bar[::-1], before[::-1]):
        a, a_p, s2, s2_p = np.sqrt(abar), np.sqrt(abar_p), 1 - abar, 1 - abar_p
        total = abar * variance + s2
        if solver == "ddim":
            # x₀ and ε from the posterior mean, put together again at the next level.
            gain = (a_p * a * variance + np.sqrt(s2_p * s2)) / total
            m, v = a_p * mean + gain * (m - a * mean), gain**2 * v
        else:
            alpha = abar / abar_p
            of_image, of_sample = a_p * (1 - alpha) / s2, np.sqrt(alpha) * s2_p / s2
            gain = of_image * a * variance / total + of_sample
            m, v = a_p * mean + gain * (m - a * mean), gain**2 * v + (1 - alpha) * s2_p / s2
    return m, v


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("steps", [1, 2, 10, 50, 1000])
@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_closed_form_is_the_recursion(name, steps, solver):
    visited = visited_levels(TABLES[name], steps)
    found = sampling_error(SPECTRUM, log_snr_of(visited), solver)
    means = np.sqrt(SPECTRUM.mean_powers)
    results = [by_recursion(variance, mean, visited, solver) for variance, mean in zip(VARIANCES, means)]
    ratios = error_terms(SPECTRUM, torch.from_numpy(log_snr_of(visited)), solver)[2]
    np.testing.assert_allclose(
        ratios, [v / variance for (_, v), variance in zip(results, VARIANCES)], rtol=1e-7, atol=1e-16
    )
    distance = np.array([(m - mean) ** 2 + (np.sqrt(v) - np.sqrt(variance)) ** 2
                         for (m, v), mean, variance in zip(results, means, VARIANCES)])  # fmt: skip
    counts = SPECTRUM.counts
    assert found.pixels == pytest.approx(counts @ distance / (counts @ VARIANCES), rel=1e-9, abs=1e-14)
    by_octave = [
        (counts * distance)[SPECTRUM.octaves == k].sum() / (counts * VARIANCES)[SPECTRUM.octaves == k].sum()
        for k in range(3)
    ]
    assert found.octaves == pytest.approx(np.mean(by_octave), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(("solver", "scheduler"), [("ddpm", DDPMScheduler), ("ddim", DDIMScheduler)])
def test_diffusers_makes_these_variances(steps, solver, scheduler):
    """20,000 samples of each variance through the real scheduler with the ideal denoiser."""
    stock = SCHEDULES["cosine"](clip_sample=False).to_stock()
    options = {"set_alpha_to_one": True} if solver == "ddim" else {}
    sampler = scheduler.from_config(stock.config, **options)
    sampler.alphas_cumprod = sampler.alphas_cumprod.double()
    sampler.set_timesteps(steps)
    variance = torch.from_numpy(VARIANCES)[:, None]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(VARIANCES), 20_000, dtype=torch.float64, generator=generator)
    for i, t in enumerate(sampler.timesteps):
        alpha_bar = sampler.alphas_cumprod[t]
        noise = (1 - alpha_bar).sqrt() * x / (alpha_bar * variance + 1 - alpha_bar)
        kwargs = {"generator": generator} if solver == "ddpm" else {}
        step = sampler.step(noise, t, x, **kwargs)
        last = solver == "ddpm" and i + 1 == steps  # diffusers would add noise after the last of fewer than T steps
        x = step.pred_original_sample if last else step.prev_sample
    zero_mean = Spectrum(VARIANCES, SPECTRUM.counts, SPECTRUM.octaves, np.zeros(len(VARIANCES)))
    expected = error_terms(zero_mean, torch.from_numpy(log_snr_of(visited_levels(TABLES["cosine"], steps))), solver)[2]
    np.testing.assert_allclose(x.var(1).numpy() / VARIANCES, expected, rtol=0.05)  # four standard errors
