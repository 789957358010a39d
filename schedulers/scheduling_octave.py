"""Octave geodesic and octave Pareto log-SNR, of this project: structure against the path-wise divergence of a step.

The reverse path of n steps differs from the true one by a Kullback-Leibler divergence of ¼ Σ w² Δλ² per mode. With
every octave counting the same, the density of steps p(λ) that trades the divergence ∫ c/p dλ, c the octave mean of w²,
against structure ∫ S p dλ is p ∝ √(c/(1 − κS)): κ = 0 is the geodesic of the octave-weighted path. Unlike the
spectrally optimal schedule it pays for steps near clean images, where w is 1, so its first log-SNR must be chosen.
For one octave the density w is the rate at which noise destroys information on x₀, by which Raya et al.
(arXiv 2602.18647) allocate training; the octave mean and the structure are of this project.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times
from .scheduling_spectral import quantiles
from .spectrum import spectrum_from_octaves


class OctaveScheduler(NoiseSchedule):
    """Octave geodesic (kappa 0) and octave Pareto (kappa above 0) log-SNR.

    Args:
        kappa: Weight of structure, from 0 to below 1.
        max_leak: Information on the image left at the last step, in nats; it sets the last log-SNR.
        residual_noise: Noise variance at the first step over the variance of a pixel; it sets the first log-SNR.
    """

    @staticmethod
    def alphas_bar(
        num_train_timesteps: int,
        octave_powers: list[list[float]] | None = None,
        resolution: int = 32,
        mean_square: float = 0.25,
        kappa: float = 0.0,
        max_leak: float = 1e-5,
        residual_noise: float = 5e-4,
    ) -> np.ndarray:
        """ᾱ at the quantiles of p ∝ √(c/(1 − κS)) between the two ends."""  # (T,)
        if not 0 <= kappa < 1:
            raise ValueError(f"OctaveScheduler: kappa={kappa} must lie between 0 and 1.")
        if not 0 < residual_noise < 1:
            raise ValueError(f"OctaveScheduler: residual_noise={residual_noise} must lie between 0 and 1.")
        spectrum = spectrum_from_octaves(octave_powers, resolution, mean_square)
        noise_variance = residual_noise * spectrum.total_variance / spectrum.counts.sum()
        log_snr = np.linspace(spectrum.log_snr_of_leak(max_leak), -np.log(noise_variance), 2000)
        divergence = spectrum.gain(log_snr) ** 2 @ spectrum.mode_weights
        density = np.sqrt(divergence / (1 - kappa * spectrum.structure(log_snr)))
        return from_log_snr(quantiles(log_snr, density, times(num_train_timesteps)))
