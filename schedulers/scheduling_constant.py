"""Constant β: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), appendix B."""

import numpy as np

from .scheduling_base import NoiseSchedule, from_betas, times


class ConstantScheduler(NoiseSchedule):
    """Constant β.

    Args:
        beta: β of every step.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, beta: float = 0.01) -> np.ndarray:
        """ᾱ_t = (1 − β)^t."""  # (T,)
        return from_betas(np.full(len(times(num_train_timesteps)), beta, dtype=np.float64))
