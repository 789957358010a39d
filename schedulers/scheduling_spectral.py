"""Spectrally optimal log-SNR, of this project: the density of steps that minimises the closed-form sampling error.

For Gaussian data with variance ℓ and the ideal denoiser, sampling shrinks each mode's standard deviation by a factor
that is known in closed form (docs/forward_process_report.md). To first order in the step, a density of steps p(λ) and
n steps leave the relative error ε = (1/n)∫ k(λ)/p(λ) dλ with

    DDPM, fixed_small:  k = w²(1 − w)/2,    DDIM:  k = w(1 − w)/8,    w = SNR·ℓ/(1 + SNR·ℓ).

The error of a spectrum is E = Σ ω ε², with ω the share of each mode in the variance (in pixels) or within its octave
(by octave). This schedule minimises the weighted mean of log E over both norms and the solvers, minus κ times the
structure A = ∫ S p dλ. Setting the variation to zero gives p ∝ √(g/(η − κS)), g = Σ ω ε k/E, and p is its fixed point.

For one octave and DDIM, p ∝ √(w(1 − w)) ∝ sech((λ + ln ℓ)/2): the cosine schedule, shifted to that octave's power, as
Sabour et al., "Align Your Steps" (arXiv 2404.14507), Theorem 3.1, show for every n. The schedule of an image is the
root mean square of one shifted cosine an octave. Exact errors of Gaussian data, and schedules that minimise them, are
also in Benita et al. (arXiv 2502.00180); docs/forward_process_report.md, section 8, says what is new here.
"""

from typing import Literal

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times
from .spectrum import Spectrum, spectrum_from_octaves

MAX_IDLE = 0.25
"""Share of steps near the clean image beyond which structure is bought by idling, and the schedule is refused."""
KERNELS = {"ddpm": lambda w: w**2 * (1 - w) / 2, "ddim": lambda w: w * (1 - w) / 8}


class SpectralScheduler(NoiseSchedule):
    """Log-SNR of least sampling error for a spectrum.

    Args:
        kappa: Weight of structure against the logarithm of the error: 0 for the least error.
        pixel_weight: Weight of the error in pixels, from 0 to 1; the rest is that of the error by octave.
        solver: Solver whose error counts; both weighs DDPM and DDIM equally.
        max_leak: Information on the image left at the last step, in nats; it sets the last log-SNR.
        log_snr_max: Largest log-SNR. At 12.2 the noise has the variance of rounding a pixel to 8 bits.
    """

    @staticmethod
    def alphas_bar(
        num_train_timesteps: int,
        octave_powers: list[list[float]] | None = None,
        resolution: int = 32,
        mean_square: float = 0.25,
        kappa: float = 0.0,
        pixel_weight: float = 0.5,
        solver: Literal["ddpm", "ddim", "both"] = "both",
        max_leak: float = 1e-5,
        log_snr_max: float = 12.2,
    ) -> np.ndarray:
        """ᾱ at the quantiles of the optimal density between the leak's log-SNR and log_snr_max."""  # (T,)
        spectrum = spectrum_from_octaves(octave_powers, resolution, mean_square)
        log_snr = np.linspace(spectrum.log_snr_of_leak(max_leak), log_snr_max, 2000)
        solvers = ("ddpm", "ddim") if solver == "both" else (solver,)
        density = optimal_density(spectrum, log_snr, kappa, pixel_weight, solvers)
        idle = density @ (spectrum.gain(log_snr).min(1) > 0.95) * (log_snr[1] - log_snr[0])
        if idle > MAX_IDLE:
            raise ValueError(
                f"SpectralScheduler: with kappa={kappa}, {idle:.0%} of the steps would lie where every octave is "
                "still intact, which gains nothing: lower kappa."
            )
        return from_log_snr(quantiles(log_snr, density, times(num_train_timesteps)))


def optimal_density(
    spectrum: Spectrum,
    log_snr: np.ndarray,
    kappa: float,
    pixel_weight: float,
    solvers: tuple[str, ...],
    iterations: int = 50,
) -> np.ndarray:
    """The density of steps p(λ) described above on an even grid of log-SNR; (L,), integrating to 1."""
    if not kappa >= 0:
        raise ValueError(f"SpectralScheduler: kappa={kappa} must be 0 or more.")
    if not 0 <= pixel_weight <= 1:
        raise ValueError(f"SpectralScheduler: pixel_weight={pixel_weight} must lie between 0 and 1.")
    gain, structure = spectrum.gain(log_snr), spectrum.structure(log_snr)
    weights = np.stack([spectrum.pixel_weights, spectrum.octave_weights])  # (2, M)
    shares = np.array([pixel_weight, 1 - pixel_weight])
    kernels = [KERNELS[solver](gain) for solver in solvers]  # (L, M) each
    step = log_snr[1] - log_snr[0]
    density = np.full(len(log_snr), 1 / (step * len(log_snr)))
    for _ in range(iterations):
        local_error = np.zeros(len(log_snr))
        for kernel in kernels:
            error = step * (1 / density) @ kernel  # (M,), times 1/n
            local_error = local_error + kernel @ ((shares / (weights @ error**2)) @ weights * error)
        new = _unit_density(2 * local_error / len(kernels), kappa * structure / 2, step)
        density = np.sqrt(density * new)  # damped: the undamped iteration swings
        density /= density.sum() * step
    return density


def quantiles(log_snr: np.ndarray, density: np.ndarray, t: np.ndarray) -> np.ndarray:
    """λ(t) of a density of steps given on an even grid of log-SNR: 1 − t of the steps lie below λ(t); (T,)."""
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(1 - t, below / below[-1], log_snr)


def _unit_density(local_error: np.ndarray, reward: np.ndarray, step: float) -> np.ndarray:
    """√(local_error/(η − reward)) with η such that it integrates to 1."""
    # With r the largest reward: η = r + x², and the integral falls from infinity to 0 as x grows.
    top, low, high = reward.max(), 1e-12, 1e12
    for _ in range(100):
        middle = np.sqrt(low * high)
        density = np.sqrt(local_error / (top - reward + middle))
        low, high = (middle, high) if density.sum() * step > 1 else (low, middle)
    return density
