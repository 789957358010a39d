"""Quadratic β, √β linear: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752), whose code and diffusers call it scaled_linear.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_betas, times


class QuadraticScheduler(NoiseSchedule):
    """Quadratic β.

    Args:
        beta_start: β of the first step.
        beta_end: β of the last step.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
        """ᾱ_t = ∏ (1 − β_i), √β evenly spaced from √beta_start to √beta_end."""  # (T,)
        if not (beta_start >= 0 and beta_end >= 0):
            raise ValueError(f"QuadraticScheduler: beta_start={beta_start} and beta_end={beta_end} must be 0 or more.")
        steps = len(times(num_train_timesteps))
        return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=np.float64) ** 2)
