"""Cosine ᾱ: Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672), eq. 17."""

from typing import Literal

import numpy as np
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for it in this module

from schedulers.scheduling_base import NoiseSchedule, times


def cosine_alphas_cumprod(num_train_timesteps: int, s: float) -> np.ndarray:
    """ᾱ = f(t)/f(0) with f(t) = cos²((t + s)/(1 + s) · π/2), and β ≤ 0.999 near t = 1 as in the paper."""  # (T,)
    t = np.concatenate([[0.0], times(num_train_timesteps)])
    f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.cumprod(1 - betas)


class CosineScheduler(NoiseSchedule):
    """Cosine ᾱ.

    Args:
        s: Offset that keeps the first steps from adding too little noise.
        num_train_timesteps: Number of noise levels T that the model is trained on.
        prediction_type: What the network predicts: the noise, the velocity, or the clean image.
        variance_type: Variance of a DDPM step: its lower (fixed_small) or upper (fixed_large) bound.
        clip_sample: Clip the predicted clean image to [-1, 1] while sampling.
        timestep_spacing: How fewer than T sampling steps are spread; trailing starts at the noisiest level.
        trained_betas: Ignored: the betas follow from the arguments above.
    """

    @register_to_config
    def __init__(
        self,
        s: float = 0.008,
        num_train_timesteps: int = 1000,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip_sample: bool = True,
        timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
        trained_betas: list[float] | None = None,
    ):
        super().__init__(
            cosine_alphas_cumprod(num_train_timesteps, s),
            prediction_type=prediction_type,
            variance_type=variance_type,
            clip_sample=clip_sample,
            timestep_spacing=timestep_spacing,
        )
