"""What a sampler with the ideal denoiser makes of Gaussian data: its error, in closed form.

For a mode of variance ℓ every sampling step is linear, and the recursions of variance and mean telescope. With the
gain w = SNR·ℓ/(1 + SNR·ℓ) and steps from log-SNR λ_s to the less noisy λ_p (the last one to the clean image, w_p = 1):

    DDPM, fixed_small:  v/ℓ = 1 − Σ w_p² (1 − w_s)(1 − e^(λ_s − λ_p))² − start,
    DDIM:               v/ℓ = ∏ cos²(θ_p − θ_s) / V_T,    tan θ = √(SNR·ℓ).

DDPM's mean is exact and its variance lacks what the image's own uncertainty adds in each step; DDIM turns a mode by
the angle from noise to image, and each straight step shortens it by the cosine. docs/forward_process.md derives both.
"""

from dataclasses import dataclass

import numpy as np

from schedulers.spectrum import Spectrum

SOLVERS = ("ddpm", "ddim")


@dataclass(frozen=True)
class SamplingError:
    """Squared 2-Wasserstein distance between what is sampled and the Gaussian data."""

    pixels: float
    """Over the whole image, relative to its total variance."""
    octaves: float
    """Of each octave relative to the octave's own variance, averaged over octaves."""


def log_snr_of(alphas_cumprod: np.ndarray) -> np.ndarray:
    """ln(ᾱ/(1 − ᾱ)), with ᾱ = 0 of a zero-terminal-SNR schedule taken as 1e-12."""
    alphas_cumprod = np.maximum(np.asarray(alphas_cumprod, dtype=np.float64), 1e-12)
    return np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)


def steps_of(table: np.ndarray, steps: int) -> np.ndarray:
    """The values of a table over timesteps that `steps` trailing steps visit, cleanest first; (steps,).

    Raises:
        ValueError: More steps than timesteps.
    """
    total = len(table)
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampling steps were asked for, but the schedule has {total} timesteps.")
    # The positions of DDPMScheduler.set_timesteps with timestep_spacing="trailing" (arXiv 2305.08891, table 2).
    positions = np.round(total - np.arange(steps) * (total / steps)).astype(int) - 1
    return table[positions[::-1]]


def variance_ratios(spectrum: Spectrum, log_snr: np.ndarray, solver: str) -> np.ndarray:
    """v/ℓ of each band after sampling from N(0, I) through these log-SNRs (falling); (M,)."""
    gain = spectrum.gain(log_snr)  # (n, M)
    alpha_bar = 1 / (1 + np.exp(-log_snr[-1]))
    start = 1 + alpha_bar * (spectrum.variances - 1)  # V_T, where the sampler starts from 1
    if solver == "ddim":
        angles = np.arctan(np.sqrt(gain / (1 - gain)))
        turns = np.diff(angles, axis=0, prepend=np.pi / 2)
        return np.prod(np.cos(turns) ** 2, axis=0) / start
    assert solver == "ddpm"
    before = np.concatenate([np.ones((1, gain.shape[1])), gain[:-1]])  # w_p
    jump = -np.expm1(np.diff(log_snr, prepend=np.inf))  # 1 − e^(λ_s − λ_p); 1 for the step to the clean image
    lost = (before**2 * (1 - gain) * jump[:, None] ** 2).sum(0)
    return 1 - lost - (start - 1) * alpha_bar * spectrum.variances / start**2


def sampling_error(spectrum: Spectrum, log_snr: np.ndarray, solver: str) -> SamplingError:
    """The error of sampling through these log-SNRs, falling."""
    ratios = variance_ratios(spectrum, log_snr, solver)
    alpha_bar = 1 / (1 + np.exp(-log_snr[-1]))
    start = 1 + alpha_bar * (spectrum.variances - 1)
    # The sampler starts at mean 0 where the data's is aμ; each mode forgets that as it forgets the rest of its start.
    if solver == "ddim":
        mean_error = alpha_bar * ratios * spectrum.variances * spectrum.mean_powers
    else:
        mean_error = (alpha_bar * spectrum.variances / start) ** 2 * spectrum.mean_powers
    relative = (1 - np.sqrt(ratios)) ** 2 + mean_error / spectrum.variances
    return SamplingError(float(relative @ spectrum.pixel_weights), float(relative @ spectrum.octave_weights))
