"""The noise levels of EDM's training: Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based
Generative Models" (arXiv 2206.00364), table 1.
"""

import numpy as np
import torch

from .scheduling_base import NoiseSchedule, from_log_snr, middles


class EdmLognormalScheduler(NoiseSchedule):
    """Log-normal noise levels, variance-preserving; its last step keeps some signal.

    Args:
        p_mean: Mean of ln σ, σ the noise over signal.
        p_std: Standard deviation of ln σ.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, p_mean: float = -1.2, p_std: float = 1.2) -> np.ndarray:
        """ᾱ = 1/(1 + σ²) with ln σ = p_mean + p_std·Φ⁻¹(t), unbounded at t = 0 and 1: taken at each step's middle."""
        normal = torch.special.ndtri(torch.from_numpy(middles(num_train_timesteps))).numpy()  # Φ⁻¹
        return from_log_snr(-2 * (p_mean + p_std * normal))
