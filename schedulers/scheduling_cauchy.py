"""Cauchy log-SNR: Hang and Gu, "Improved Noise Schedule for Diffusion Training" (arXiv 2407.03297).

Its tails are so heavy that dozens of steps would lie beyond any log-SNR of use. Clipping would make them all alike, so
the distribution is cut off instead and what is left of it spread over all steps.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times


class CauchyScheduler(NoiseSchedule):
    """Cauchy-distributed log-SNR, cut off at both ends.

    Args:
        mu: Log-SNR on which the steps are centred.
        gamma: Scale: half of the uncut distribution lies within this distance of mu.
        log_snr_max: Log-SNR at t = 0, where the distribution is cut off.
        log_snr_min: Log-SNR at t = 1, where the distribution is cut off.
    """

    @staticmethod
    def alphas_bar(
        num_train_timesteps: int,
        mu: float = 0.0,
        gamma: float = 1.0,
        log_snr_max: float = 12.0,
        log_snr_min: float = -15.0,
    ) -> np.ndarray:
        """λ = μ + γ·tan(π(½ − u)), u evenly spaced between the two ends."""  # (T,)
        if not (gamma > 0 and log_snr_max > log_snr_min):
            raise ValueError(
                f"CauchyScheduler: gamma={gamma} must be above 0, and log_snr_max={log_snr_max} above "
                f"log_snr_min={log_snr_min}."
            )
        first, last = (np.arctan((end - mu) / gamma) for end in (log_snr_max, log_snr_min))  # π(½ − u)
        return from_log_snr(mu + gamma * np.tan(first + times(num_train_timesteps) * (last - first)))
