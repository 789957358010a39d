"""Sampling from zero terminal SNR with every solver that the project offers, through the pipeline."""

import math

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import SCHEDULES
from tests.support.tiny_models import gaussian_pipeline

MEAN, VARIANCE, STEPS, SIZE = 0.3, 0.25, 50, 96


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "laplace"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_the_gaussian_from_pure_noise(solver, name, prediction_type):
    """Pixels N(0.3, 0.25) from the exact denoiser; the deterministic solvers map x_T to about 0.3 + 0.5·x_T."""
    options = {"prediction_type": prediction_type, "clip_sample": False, "rescale_betas_zero_snr": True}
    trained = SCHEDULES[name](**options).to_stock()
    if solver == "euler" and prediction_type == "sample":
        with pytest.raises(ValueError, match="cannot use a model that predicts the clean sample"):
            make_solver(trained, solver)
        return
    converted = make_solver(trained, solver)
    assert converted.config.rescale_betas_zero_snr
    pipeline = gaussian_pipeline(trained, converted, [MEAN, 0.0], [VARIANCE, 1.0], SIZE)
    seen = []
    generator = [torch.Generator().manual_seed(0)]
    pipeline(
        class_labels=[0],
        num_inference_steps=STEPS,
        generator=generator,
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(tensors["latents"]),
    )
    images = seen[-1]
    start = randn_tensor(images.shape, generator=[torch.Generator().manual_seed(0)], dtype=torch.float64)

    # The share of the variance that 50 first-order steps keep, in closed form.
    trained.set_timesteps(STEPS)
    levels = trained.alphas_cumprod[trained.timesteps].double()
    variance = moment(levels.tolist(), "ddpm" if solver == "ddpm" else "ddim")
    if solver == "ddpm":
        assert images.mean().item() == pytest.approx(MEAN, abs=5 * math.sqrt(variance) / SIZE)
        assert images.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2) / SIZE)
    elif solver in ("ddim", "euler"):
        torch.testing.assert_close(images, MEAN + math.sqrt(variance) * start, rtol=0, atol=2e-3)
    elif name != "laplace":  # second order
        torch.testing.assert_close(images, MEAN + math.sqrt(VARIANCE) * start, rtol=0, atol=0.04)
    else:  # its last step alone, from log-SNR 2 or so to clean, loses more than a solver's order can mend
        assert variance < images.var().item() < VARIANCE


def moment(levels, kind):
    """The variance of the samples: DDIM's product of rotations, or DDPM's recursion (fixed_small)."""
    v = 1.0
    for signal, signal_p in zip(levels, [*levels[1:], 1.0]):
        noise, noise_p = 1 - signal, 1 - signal_p
        slope = math.sqrt(signal) * VARIANCE / (signal * VARIANCE + noise)  # of x̂₀ in x_t
        if kind == "ddim":
            v *= (math.sqrt(signal_p) * slope + math.sqrt(noise_p / noise) * (1 - math.sqrt(signal) * slope)) ** 2
        else:
            beta = 1 - signal / signal_p
            gain = math.sqrt(signal_p) * beta / noise * slope + math.sqrt(1 - beta) * noise_p / noise
            v = gain**2 * v + beta * noise_p / noise
    return v
