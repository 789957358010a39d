"""Linear β: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), section 4."""

from typing import Literal

import numpy as np
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for it in this module

from schedulers.scheduling_base import NoiseSchedule, times


def linear_alphas_cumprod(num_train_timesteps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """ᾱ_t = ∏ (1 − β_i), β evenly spaced from beta_start to beta_end."""  # (T,)
    steps = len(times(num_train_timesteps))
    return np.cumprod(1 - np.linspace(beta_start, beta_end, steps, dtype=np.float64))


class LinearScheduler(NoiseSchedule):
    """Linear β.

    Args:
        beta_start: β of the first step.
        beta_end: β of the last step.
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
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        num_train_timesteps: int = 1000,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip_sample: bool = True,
        timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
        trained_betas: list[float] | None = None,
    ):
        super().__init__(
            linear_alphas_cumprod(num_train_timesteps, beta_start, beta_end),
            beta_start=beta_start,  # arguments of DDPMScheduler as well, which would register its defaults
            beta_end=beta_end,
            prediction_type=prediction_type,
            variance_type=variance_type,
            clip_sample=clip_sample,
            timestep_spacing=timestep_spacing,
        )
