"""The noise levels of EDM's sampler: Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based
Generative Models" (arXiv 2206.00364), eq. 5.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times


class EdmScheduler(NoiseSchedule):
    """EDM's noise levels, variance-preserving.

    Args:
        rho: Power: larger values put more steps on little noise.
        sigma_min: Noise over signal at t = 0.
        sigma_max: Noise over signal at t = 1.
    """

    @staticmethod
    def alphas_bar(
        num_train_timesteps: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
    ) -> np.ndarray:
        """ᾱ = 1/(1 + σ²) with σ^(1/ρ) evenly spaced from sigma_min^(1/ρ) to sigma_max^(1/ρ)."""  # (T,)
        if not (rho > 0 and 0 < sigma_min < sigma_max):
            raise ValueError(
                f"EdmScheduler: rho={rho} must be above 0, and sigma_min={sigma_min} above 0 and below "
                f"sigma_max={sigma_max}."
            )
        first, last = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        return from_log_snr(-2 * rho * np.log(first + times(num_train_timesteps) * (last - first)))
