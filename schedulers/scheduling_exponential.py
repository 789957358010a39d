"""Exponential ᾱ, which is a constant β whatever the number of steps: the variance-preserving process of Song et al.,
"Score-Based Generative Modeling through Stochastic Differential Equations" (arXiv 2011.13456), eq. 11, at a constant
β(t).
"""

import numpy as np

from .scheduling_base import NoiseSchedule, times


class ExponentialScheduler(NoiseSchedule):
    """Exponential ᾱ.

    Args:
        rate: ᾱ falls to e^−rate.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, rate: float = 12.0) -> np.ndarray:
        """ᾱ = e^(−rate·t)."""  # (T,)
        return np.exp(-rate * times(num_train_timesteps))
