"""What a sampling step costs at each noise level, measured with any denoiser: the local error of real data.

The closed form of cardiff.analysis.errors knows only variances. Here one DDIM step is compared with two half steps
from the same noisy image, and both are carried on to the clean image in fine steps, so that the difference is what the
step changes in the picture. For Gaussian data and its ideal denoiser the two agree.
"""

from collections.abc import Callable

import numpy as np
import torch

from cardiff.analysis.spectra import to_float
from cardiff.diffusion.levels import a_sigma, clean_image, trained_log_snr
from cardiff.pipelines import ClassConditionalPipeline

Denoiser = Callable[[torch.Tensor, float], torch.Tensor]
"""E[x₀ | x_t] of images (B, C, H, W) at a log-SNR."""
CLEAN = 13.0
"""Log-SNR at which a sample counts as clean."""
LEVELS = np.arange(-12.0, 12.1, 1.0)
"""Log-SNRs at which a local error is usually measured."""


def finite_set_denoiser(images: np.ndarray) -> Denoiser:
    """The ideal denoiser when the data are exactly these images, uint8 (N, C, H, W): the posterior mean."""
    data = torch.from_numpy(to_float(images).reshape(len(images), -1)).float()
    squares = (data**2).sum(1)

    def denoise(x: torch.Tensor, log_snr: float) -> torch.Tensor:
        snr, a = np.exp(log_snr), 1 / np.sqrt(1 + np.exp(-log_snr))
        logits = snr * (x.reshape(len(x), -1) @ data.T / a - squares / 2)  # −‖x − a·x_j‖²/2σ² without what is common
        return (torch.softmax(logits, dim=1) @ data).reshape(x.shape)

    return denoise


def network_denoiser(pipeline: ClassConditionalPipeline, class_labels: torch.Tensor | None = None) -> Denoiser:
    """What a trained network takes for the clean image, at any level between those of its timesteps.

    Args:
        pipeline: The model.
        class_labels: Class of each image, (B,); by default the null class, if there is one.
    """
    scheduler, unet = pipeline.scheduler, pipeline.unet
    trained = -trained_log_snr(scheduler).numpy()  # rising

    @torch.no_grad()
    def denoise(x: torch.Tensor, log_snr: float) -> torch.Tensor:
        labels = class_labels
        if labels is None and unet.config.num_class_embeds is not None:
            labels = torch.full((len(x),), pipeline.null_class, device=x.device)
        # The embedding of the timestep takes fractions of it.
        timestep = torch.tensor(np.interp(-log_snr, trained, np.arange(len(trained))))
        x0 = clean_image(x, unet(x, timestep, labels).sample, log_snr, scheduler.config.prediction_type)
        return x0.clamp(-1, 1) if scheduler.config.clip_sample else x0

    return denoise


def ddim_step(denoise: Denoiser, x: torch.Tensor, log_snr: float, target: float) -> torch.Tensor:
    """One deterministic step to a larger log-SNR: Song et al. (arXiv 2010.02502), eq. 12 with σ = 0."""
    a, sigma = a_sigma(log_snr)
    a_p, sigma_p = a_sigma(target)
    x0 = denoise(x, log_snr)
    return a_p * x0 + sigma_p * (x - a * x0) / sigma


def measured_local_error(
    denoise: Denoiser,
    images: np.ndarray,
    log_snr: np.ndarray,
    *,
    count: int = 256,
    step: float = 1.0,
    fine: float = 0.5,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Error e(λ) that a DDIM step leaves in the clean image, for each squared unit of log-SNR that it jumps; (L,).

    It is the root mean square over pixels. With n steps of density p the errors add up to (1/n)∫ e/p dλ at most, which
    p ∝ √e makes smallest.

    Args:
        denoise: The denoiser to measure.
        images: Clean images, uint8 (N, C, H, W), of which `count` are noised.
        log_snr: Where the step begins; (L,).
        count: Images.
        step: Length of the step in log-SNR.
        fine: Length of the steps that carry the result on to the clean image.
        seed: Seed of the choice of images and of the noise.
        progress: Called with 1 after each step, of which there are `local_error_work`.
    """
    rng = np.random.default_rng(seed)
    x0 = torch.from_numpy(to_float(images[np.sort(rng.permutation(len(images))[:count])])).float()
    noise = torch.from_numpy(rng.standard_normal(x0.shape)).float()
    found = []
    for level in log_snr:
        a, sigma = a_sigma(level)
        x = a * x0 + sigma * noise
        whole = ddim_step(denoise, x, level, level + step)
        halves = ddim_step(denoise, ddim_step(denoise, x, level, level + step / 2), level + step / 2, level + step)
        both = torch.cat([whole, halves])
        progress(1)
        path = _path_to_clean(level + step, fine)
        for here, there in zip(path, path[1:]):
            both = ddim_step(denoise, both, here, there)
            progress(1)
        whole, halves = both.chunk(2)
        # Two half steps leave half the error of the whole one, so the difference is the other half.
        found.append(2 * float(((whole - halves) ** 2).mean().sqrt()) / step**2)
    return np.array(found)


def local_error_work(log_snr: np.ndarray, *, step: float = 1.0, fine: float = 0.5) -> int:
    """How often `measured_local_error` calls `progress`; arguments as there."""
    return sum(len(_path_to_clean(level + step, fine)) for level in log_snr)


def _path_to_clean(log_snr: float, fine: float) -> np.ndarray:
    """Log-SNRs from there to the clean image, in fine steps."""
    return np.append(np.arange(log_snr, CLEAN, fine), CLEAN)


def schedule_of_local_error(
    log_snr: np.ndarray, local_error: np.ndarray, last: float, first: float, knots: int = 25
) -> dict:
    """A `scheduler` section whose steps lie with density √e between two log-SNRs.

    Args:
        log_snr: Levels at which the local error was measured, rising; (L,).
        local_error: e; (L,).
        last: Log-SNR at t = 1.
        first: Log-SNR at t = 0.
        knots: Number of knots.
    """
    levels = np.linspace(last, first, 2000)
    density = np.exp(np.interp(levels, log_snr, np.log(np.maximum(local_error, 1e-12))) / 2)
    # The error falls below what can be measured at both ends; a share of even steps keeps the curve falling there.
    density = density / density.sum() + 0.02 / len(levels)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    t = np.sin(np.linspace(0, np.pi / 2, knots)) ** 2  # more knots at the ends, where log-SNR falls fastest
    values = np.interp(1 - t, below / below[-1], levels)
    return {"name": "knots", "log_snr": [round(float(v), 4) for v in values], "times": [round(float(v), 6) for v in t]}
