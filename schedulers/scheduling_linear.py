"""Linear β: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), section 4."""

import numpy as np

from .scheduling_base import NoiseSchedule, from_betas, times


class LinearScheduler(NoiseSchedule):
    """Linear β.

    Args:
        beta_start: β of the first step.
        beta_end: β of the last step.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
        """ᾱ_t = ∏ (1 − β_i), β evenly spaced from beta_start to beta_end."""  # (T,)
        steps = len(times(num_train_timesteps))
        return from_betas(np.linspace(beta_start, beta_end, steps, dtype=np.float64))
