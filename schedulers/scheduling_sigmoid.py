"""Sigmoid ᾱ: Jabri, Fleet, Chen, "Scalable Adaptive Computation for Iterative Generation" (arXiv 2212.11972),
with the start, end and temperature of Chen, "On the Importance of Noise Scheduling" (arXiv 2301.10972), algorithm 1.
"""

from typing import Literal

import numpy as np
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for it in this module

from schedulers.scheduling_base import NoiseSchedule, times


def sigmoid_alphas_cumprod(num_train_timesteps: int, start: float, end: float, tau: float) -> np.ndarray:
    """ᾱ = (σ(end/τ) − σ((t(end − start) + start)/τ)) / (σ(end/τ) − σ(start/τ)), at least 1e-9 as in the paper."""
    if not (tau > 0 and end > start):
        raise ValueError(f"SigmoidScheduler: tau={tau} must be above 0, and end={end} above start={start}.")

    def logistic(x):
        return 1 / (1 + np.exp(-x / tau))

    t = times(num_train_timesteps)
    # Only t = 1 meets the bound: there ᾱ is 0 by construction, and 1e-9 keeps its logarithm finite.
    return np.maximum((logistic(end) - logistic(t * (end - start) + start)) / (logistic(end) - logistic(start)), 1e-9)


class SigmoidScheduler(NoiseSchedule):
    """Sigmoid ᾱ.

    Args:
        tau: Temperature: small values spread log-SNR wide at both ends, large ones approach ᾱ = 1 − t.
        start: Where on the sigmoid t = 0 lies.
        end: Where on the sigmoid t = 1 lies.
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
        tau: float = 0.5,
        start: float = -3.0,
        end: float = 3.0,
        num_train_timesteps: int = 1000,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip_sample: bool = True,
        timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
        trained_betas: list[float] | None = None,
    ):
        super().__init__(
            sigmoid_alphas_cumprod(num_train_timesteps, start, end, tau),
            prediction_type=prediction_type,
            variance_type=variance_type,
            clip_sample=clip_sample,
            timestep_spacing=timestep_spacing,
        )
