"""Cosine ᾱ: Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672), eq. 17."""

import numpy as np

from .scheduling_base import NoiseSchedule, from_betas, times


class CosineScheduler(NoiseSchedule):
    """Cosine ᾱ.

    Args:
        s: Offset that keeps the first steps from adding too little noise.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, s: float = 0.008) -> np.ndarray:
        """ᾱ = f(t)/f(0) with f(t) = cos²((t + s)/(1 + s) · π/2), and β ≤ 0.999 near t = 1 as in the paper."""  # (T,)
        t = np.concatenate([[0.0], times(num_train_timesteps)])
        f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
        return from_betas(np.minimum(1 - f[1:] / f[:-1], 0.999))
