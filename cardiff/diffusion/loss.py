"""The training objective: what the network is asked to predict, and how much each timestep counts."""

import math

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler


def prediction_target(
    scheduler: DDPMScheduler, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the network is trained to output at x_t, by the scheduler's prediction_type.  # (B, C, H, W)

    epsilon is the noise (arXiv 2006.11239, eq. 14), v_prediction √ᾱ·ε − √(1−ᾱ)·x₀ (arXiv 2202.00512,
    appendix D), sample the image itself.
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(images, noise, timesteps)
    assert scheduler.config.prediction_type == "sample"
    return images


def loss_weights(scheduler: DDPMScheduler, weighting: str, gamma: float = 5.0) -> torch.Tensor:
    """Weight of each timestep on the network's own squared error, float32 (T,).

    min_snr (Hang et al., arXiv 2303.09556, section 3.4) is min(SNR, γ) on the error of x̂₀. The error of ε̂ is SNR
    times that and the error of v̂ (SNR + 1) times, hence the divisors; each quotient is written so that it stays
    finite as SNR goes to 0.

    schedule_invariant weighs log-SNR λ alike whatever the schedule. A schedule draws λ with density p(λ) = −dt/dλ, so
    the plain loss weighs it by p (Kingma and Gao, arXiv 2303.00848, section 3). Here that is divided out and replaced
    by sech(λ/2)/2π, the density of ᾱ = cos²(πt/2): the loss is the plain v-loss under that schedule.
    """
    alphas_cumprod = scheduler.alphas_cumprod.double().cpu()
    if weighting == "uniform":
        return torch.ones(len(alphas_cumprod))
    if weighting == "schedule_invariant":
        return _schedule_invariant_weights(alphas_cumprod, scheduler.config.prediction_type).float()
    assert weighting == "min_snr"
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr.clamp(max=gamma)
    per_prediction_type = {
        "epsilon": torch.clamp(gamma / snr, max=1.0),
        "v_prediction": capped / (snr + 1),
        "sample": capped,
    }
    return per_prediction_type[scheduler.config.prediction_type].float()


def _schedule_invariant_weights(alphas_cumprod: torch.Tensor, prediction_type: str) -> torch.Tensor:
    alphas_cumprod = alphas_cumprod.clamp(min=1e-12)  # a last step of pure noise has weight 0 either way
    log_snr, snr = torch.logit(alphas_cumprod), alphas_cumprod / (1 - alphas_cumprod)
    (slope,) = torch.gradient(log_snr)  # dλ/dt = −1/p(λ), over T
    weights = -slope * len(slope) / (2 * math.pi * torch.cosh(log_snr / 2))
    # These are of the v-loss: ‖δv‖² = (1 + 1/SNR)·‖δε‖² = (1 + SNR)·‖δx₀‖².
    return weights * {"v_prediction": 1.0, "epsilon": 1 + 1 / snr, "sample": 1 + snr}[prediction_type]


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image, in float32.  # (B,)"""
    return F.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
