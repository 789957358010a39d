"""The training losses: Algorithm 1 of Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (2006.11239).

A loss is called with a network, a batch and the draws for it, and is independent of optimizers, processes and
checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from cardiff.config.run import RunConfig
from cardiff.diffusion.draws import Draws
from cardiff.diffusion.levels import exact_log_snr


class DenoisingLoss:
    """Squared error of the network's prediction for noised images, weighted by timestep.

    Args:
        scheduler: Noise levels and prediction type.
        weights: Weight of each timestep, (T,), from `loss_weights`, on the device of the images.
        null_class: Replaces dropped labels (classifier-free guidance, arXiv 2207.12598); None without labels.
        memory_format: Memory format of the noised images.
    """

    def __init__(
        self,
        scheduler: DDPMScheduler,
        weights: torch.Tensor,
        null_class: int | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        self.scheduler, self.weights = scheduler, weights
        self.null_class, self.memory_format = null_class, memory_format

    def __call__(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor | None, draws: Draws
    ) -> torch.Tensor:
        """The loss of each image, (b,), from uint8 images (b, C, H, W) and int64 labels (b,)."""
        clean = model_range(images, draws.flip)  # x₀ ~ q(x₀), in [-1, 1]
        t, noise = draws.timesteps, draws.noise  # t ~ Uniform{0, …, T − 1}, ε ~ N(0, I)
        class_labels = None
        if self.null_class is not None and labels is not None:
            class_labels = torch.where(draws.drop, self.null_class, labels)
        noisy = self.scheduler.add_noise(clean, noise, t)  # x_t = √ᾱ_t·x₀ + √(1−ᾱ_t)·ε
        prediction = model(noisy.contiguous(memory_format=self.memory_format), t, class_labels).sample
        target = prediction_target(self.scheduler, clean, noise, t)  # ε, v or x₀
        return self.weights[t] * squared_error(prediction, target)


class ClassificationLoss:
    """Cross-entropy of a classifier of noised images: Dhariwal and Nichol (arXiv 2105.05233), section 4.1.

    Args:
        scheduler: Noise levels.
        memory_format: Memory format of the noised images.
    """

    def __init__(self, scheduler: DDPMScheduler, memory_format: torch.memory_format = torch.contiguous_format):
        self.scheduler, self.memory_format = scheduler, memory_format

    def __call__(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor | None, draws: Draws
    ) -> torch.Tensor:
        """The loss of each image, (b,), from uint8 images (b, C, H, W) and int64 labels (b,)."""
        assert labels is not None
        clean = model_range(images, draws.flip)
        noisy = self.scheduler.add_noise(clean, draws.noise, draws.timesteps)
        logits = model(noisy.contiguous(memory_format=self.memory_format), draws.timesteps)  # (b, N)
        return F.cross_entropy(logits.float(), labels, reduction="none")


def memory_format(config: RunConfig) -> torch.memory_format:
    """The memory format of a run's images."""
    return torch.channels_last if config.train.channels_last else torch.contiguous_format


def model_range(images: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 images (b, C, H, W) as float32 in [-1, 1], mirrored left to right where `flip` (b,) is true."""
    images = images.float() / 127.5 - 1  # [0, 255] -> [-1, 1]
    return images if flip is None else torch.where(flip[:, None, None, None], images.flip(-1), images)


def prediction_target(
    scheduler: DDPMScheduler, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The network's training target at x_t, by the scheduler's prediction_type.  # (B, C, H, W)

    epsilon is the noise (arXiv 2006.11239, eq. 14), v_prediction is √ᾱ·ε − √(1−ᾱ)·x₀ (arXiv 2202.00512,
    appendix D), and sample is the image itself.
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(images, noise, timesteps)
    assert scheduler.config.prediction_type == "sample"
    return images


def loss_weights(scheduler: DDPMScheduler, weighting: str, gamma: float = 5.0) -> torch.Tensor:
    """Weight of each timestep on the network's own squared error, float32 (T,).

    min_snr (Hang et al., arXiv 2303.09556, section 3.4) is min(SNR, γ) on the squared error of x̂₀. The error of ε̂ is
    SNR times that, and the error of v̂ is SNR + 1 times that, hence the divisors; each quotient is written so that it
    stays finite as SNR goes to 0.

    schedule_invariant gives each log-SNR λ the same weight whatever the schedule. A schedule draws λ with density
    p(λ) = −dt/dλ, so the plain loss weights it by p (Kingma and Gao, arXiv 2303.00848, section 3). Here p is divided
    out and replaced by sech(λ/2)/2π, the density of ᾱ = cos²(πt/2): the loss is the plain v-loss under that schedule.
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
    log_snr, snr = exact_log_snr(alphas_cumprod), alphas_cumprod / (1 - alphas_cumprod)
    (slope,) = torch.gradient(log_snr)  # dλ/dt = −1/p(λ), over T
    weights = -slope * len(slope) / (2 * math.pi * torch.cosh(log_snr / 2))
    # So far for the v-loss: ‖δv‖² = (1 + 1/SNR)·‖δε‖² = (1 + SNR)·‖δx₀‖².
    per_type = {"v_prediction": torch.ones_like(snr), "epsilon": 1 + 1 / snr, "sample": 1 + snr}
    return weights * per_type[prediction_type]


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image, in float32.  # (B,)"""
    return F.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
