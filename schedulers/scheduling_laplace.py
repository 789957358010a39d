"""Laplace log-SNR: Hang and Gu, "Improved Noise Schedule for Diffusion Training" (arXiv 2407.03297).

The beta_schedule="laplace" of diffusers is another one: it takes √(SNR/(1 + SNR)) for ᾱ.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, middles


class LaplaceScheduler(NoiseSchedule):
    """Laplace-distributed log-SNR; its last step keeps some signal.

    Args:
        mu: Log-SNR on which the steps are centred.
        b: Scale: the width over which their density falls by e.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, mu: float = 0.0, b: float = 0.5) -> np.ndarray:
        """λ = μ − b·sgn(½ − t)·ln(1 − 2|t − ½|), unbounded at t = 0 and 1: taken at the middle of each step."""
        if not b > 0:
            raise ValueError(f"LaplaceScheduler: b={b} must be above 0.")
        t = middles(num_train_timesteps)
        return from_log_snr(mu - b * np.sign(0.5 - t) * np.log(1 - 2 * np.abs(t - 0.5)))
