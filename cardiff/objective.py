"""The training objective: what the network is asked to predict, and how much each timestep counts."""

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
    """
    alphas_cumprod = scheduler.alphas_cumprod.double().cpu()
    if weighting == "uniform":
        return torch.ones(len(alphas_cumprod))
    assert weighting == "min_snr"
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr.clamp(max=gamma)
    per_prediction_type = {
        "epsilon": torch.clamp(gamma / snr, max=1.0),
        "v_prediction": capped / (snr + 1),
        "sample": capped,
    }
    return per_prediction_type[scheduler.config.prediction_type].float()


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image, in float32.  # (B,)"""
    return F.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
