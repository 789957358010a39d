"""Sigmoid ᾱ: Jabri, Fleet, Chen, "Scalable Adaptive Computation for Iterative Generation" (arXiv 2212.11972),
with the start, end and temperature of Chen, "On the Importance of Noise Scheduling" (arXiv 2301.10972), algorithm 1.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times


class SigmoidScheduler(NoiseSchedule):
    """Sigmoid ᾱ.

    Args:
        tau: Temperature: small values spread log-SNR wide at both ends, large ones approach ᾱ = 1 − t.
        start: Where on the sigmoid t = 0 lies.
        end: Where on the sigmoid t = 1 lies.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, tau: float = 0.5, start: float = -3.0, end: float = 3.0) -> np.ndarray:
        """ᾱ = (σ(end/τ) − σ((t(end − start) + start)/τ)) / (σ(end/τ) − σ(start/τ)), at least 1e-9 as in the paper."""
        if not (tau > 0 and end > start):
            raise ValueError(f"SigmoidScheduler: tau={tau} must be above 0, and end={end} above start={start}.")

        def logistic(x: np.ndarray | float) -> np.ndarray:
            return from_log_snr(np.asarray(x / tau))

        t = times(num_train_timesteps)
        alphas_bar = (logistic(end) - logistic(t * (end - start) + start)) / (logistic(end) - logistic(start))
        return np.maximum(alphas_bar, 1e-9)  # only t = 1 meets the bound: there ᾱ is 0 by construction
