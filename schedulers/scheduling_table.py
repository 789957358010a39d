"""A schedule from a list of all its ᾱ."""

import numpy as np

from .scheduling_base import NoiseSchedule


class TableScheduler(NoiseSchedule):
    """ᾱ from a list.

    Args:
        alphas_cumprod: ᾱ after each step, falling; num_train_timesteps of them.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, alphas_cumprod: list[float]) -> np.ndarray:
        """The list itself."""  # (T,)
        return np.asarray(alphas_cumprod, dtype=np.float64)
