"""Log-SNR in its three forms, and the levels and timesteps that a solver visits."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from cardiff.diffusion.levels import exact_log_snr, log_snr_of, timesteps_at, trained_log_snr, visited_levels
from cardiff.errors import UserError
from cardiff.schedulers import SCHEDULES, CosineScheduler


def test_log_snr_of_a_schedule():
    alphas_bar = SCHEDULES["linear_log_snr"].alphas_bar(1000)
    np.testing.assert_allclose(log_snr_of(alphas_bar), 10 - 20 * np.arange(1, 1001) / 1000, atol=1e-9)
    assert log_snr_of(np.array([0.5, 0.0]))[1] == pytest.approx(np.log(1e-12))


def test_the_forms_of_log_snr_differ_at_the_ends_alone():
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    exact, trained = exact_log_snr(scheduler.alphas_cumprod), trained_log_snr(scheduler)
    assert exact.dtype == torch.float64 and exact[-1] == -torch.inf
    assert trained[-1] == pytest.approx(np.log(1e-12))
    assert torch.equal(exact[:-1], trained[:-1]) and (exact.diff() < 0).all()
    np.testing.assert_allclose(log_snr_of(scheduler.alphas_cumprod.numpy()), trained.numpy(), rtol=1e-6, atol=1e-6)
    assert exact_log_snr(torch.tensor([0.5, 1.0])).tolist() == [0, torch.inf]


def test_timesteps_at_log_snr():
    scheduler = CosineScheduler().to_stock()
    levels = torch.logit(scheduler.alphas_cumprod.double()).numpy()
    assert timesteps_at(scheduler, levels[[10, 400, 990]]) == [990, 400, 10]
    assert timesteps_at(scheduler, np.array([levels[400] + 1e-4, levels[400] - 1e-4, 99.0])) == [400, 0]


@pytest.mark.parametrize("steps", [1, 10, 50, 250, 1000])
def test_visited_steps_are_those_of_diffusers(steps):
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert visited_levels(np.arange(1000), steps)[::-1].tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("total", [100, 1000])
def test_visited_steps_of_any_number_are_those_of_diffusers(total):
    """Where the number does not divide the timesteps too: halves are rounded as there (48 of 1000), and none down."""
    scheduler, uneven = DDPMScheduler(num_train_timesteps=total, timestep_spacing="trailing"), 0
    for steps in range(1, total + 1):
        scheduler.set_timesteps(steps)
        visited = scheduler.timesteps.tolist()
        if len(visited) == steps:  # diffusers has one too many for some numbers, which sampling refuses
            assert visited_levels(np.arange(total), steps)[::-1].tolist() == visited
            uneven += total % steps > 0
    assert uneven > total / 2


@pytest.mark.parametrize("steps", [0, 1001])
def test_refused_steps(steps):
    with pytest.raises(UserError, match="sampling steps"):
        visited_levels(np.arange(1000), steps)
