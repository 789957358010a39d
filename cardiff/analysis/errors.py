"""What a sampler with the ideal denoiser makes of Gaussian data: its error, in closed form.

For a mode of variance ℓ every sampling step is linear, and the recursions of variance and mean telescope. With the
gain w = SNR·ℓ/(1 + SNR·ℓ) and steps from log-SNR λ_s to the less noisy λ_p (the last one to the clean image, w_p = 1):

    DDPM, fixed_small:  v/ℓ = 1 − Σ w_p² (1 − w_s)(1 − e^(λ_s − λ_p))² − start,
    DDIM:               v/ℓ = ∏ cos²(θ_p − θ_s) / V_T,    tan θ = √(SNR·ℓ).

DDPM's mean is exact and its variance lacks what the image's own uncertainty adds in each step; DDIM turns a mode by
the angle from noise to image, and each straight step shortens it by the cosine. docs/forward_process_report.md
derives both.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cardiff.schedulers.spectrum import Spectrum

SOLVERS = ("ddpm", "ddim")


@dataclass(frozen=True)
class SamplingError:
    """Squared 2-Wasserstein distance between what is sampled and the Gaussian data."""

    pixels: float
    """Over the whole image, relative to its total variance."""
    octaves: float
    """Of each octave relative to the octave's own variance, averaged over octaves."""


def error_terms(
    spectrum: Spectrum, log_snr: torch.Tensor, solver: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a sampler through these log-SNRs (n,), falling, does to each band; float64, with gradients.

    Returns:
        steps: What each step takes from v/ℓ (DDPM) or from −ln(v/ℓ) (DDIM), cleanest first; (n, M).
        start: The same of starting from N(0, 1) where the data have N(aμ, V_T); (M,).
        ratios: v/ℓ; (M,).
        mean: Squared error of the mean over ℓ; (M,).
    """
    variances, mean_powers = torch.from_numpy(spectrum.variances), torch.from_numpy(spectrum.mean_powers)
    odds = log_snr[:, None] + variances.log()  # ln(SNR·ℓ)
    alpha_bar = torch.sigmoid(log_snr[-1])
    last = 1 + alpha_bar * (variances - 1)  # V_T
    if solver == "ddim":
        angles = torch.atan(torch.exp(odds / 2))
        clean = torch.full_like(angles[:1], torch.pi / 2)
        steps = -2 * torch.diff(torch.cat([clean, angles]), dim=0).cos().log()
        start = last.log()
        ratios = torch.exp(-steps.sum(0) - start)
        # The mean starts at 0 where the data's is aμ; each mode forgets that as it forgets the rest of its start.
        return steps, start, ratios, alpha_bar * ratios * mean_powers
    assert solver == "ddpm"
    gain = torch.sigmoid(odds)
    before = torch.cat([torch.ones_like(gain[:1]), gain[:-1]])  # w_p
    jump = torch.cat([torch.ones_like(log_snr[:1]), -torch.expm1(log_snr.diff())])  # 1 − e^(λ_s − λ_p)
    steps = before**2 * (1 - gain) * jump[:, None] ** 2
    start = (last - 1) * alpha_bar * variances / last**2
    return steps, start, 1 - steps.sum(0) - start, (alpha_bar / last) ** 2 * variances * mean_powers


def relative_errors(ratios: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Squared 2-Wasserstein distance of each band over its variance, from the last two of `error_terms`; (M,)."""
    return (1 - ratios.clamp(min=1e-300).sqrt()) ** 2 + mean


def sampling_error(spectrum: Spectrum, log_snr: np.ndarray, solver: str) -> SamplingError:
    """The error of sampling through these log-SNRs, falling."""
    _, _, ratios, mean = error_terms(spectrum, torch.from_numpy(np.ascontiguousarray(log_snr)), solver)
    relative = relative_errors(ratios, mean).numpy()
    return SamplingError(float(relative @ spectrum.pixel_weights), float(relative @ spectrum.octave_weights))
