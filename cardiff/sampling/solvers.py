"""Solvers by name: diffusers schedulers with the noise levels of a trained one."""

import diffusers
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.errors import UserError

# Clipping x̂₀ to [-1, 1]: the multistep solvers ignore clip_sample, but thresholding at most at 1 is the same.
_CLIPPED: dict[str, bool | float] = {"thresholding": True, "sample_max_value": 1.0}
SOLVERS: dict[str, tuple[type[SchedulerMixin], dict[str, bool | float]]] = {
    "ddpm": (diffusers.DDPMScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True}),
    # lambda_min_clipped: start at log-SNR −10.2, whatever lies beyond; the last cosine level is at −19.8.
    "dpm": (diffusers.DPMSolverMultistepScheduler, {**_CLIPPED, "lambda_min_clipped": -5.1}),
    "unipc": (diffusers.UniPCMultistepScheduler, _CLIPPED),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
}


def make_solver(scheduler: SchedulerMixin, name: str) -> SchedulerMixin:
    """The named diffusers scheduler with the noise levels of a trained one.

    Raises:
        UserError: The name is unknown, or the solver does not support the model's prediction type.
    """
    if name not in SOLVERS:
        raise UserError(f"There is no solver {name!r}: choose from {', '.join(SOLVERS)}.")
    if name == "euler" and scheduler.config.prediction_type == "sample":
        raise UserError(
            f"The solver {name} cannot use a model that predicts the clean sample: choose dpm, ddim, ddpm or unipc."
        )
    solver, options = SOLVERS[name]
    if not scheduler.config.get("clip_sample", True):
        options = {key: value for key, value in options.items() if key not in _CLIPPED}
    # Only the settings of the trained noise levels are passed on: solvers warn of those of another solver.
    inherited = ["num_train_timesteps", "trained_betas", "prediction_type", "timestep_spacing", "clip_sample"]
    inherited += ["variance_type"] if issubclass(solver, DDPMScheduler) else []
    inherited += ["beta_start", "beta_end", "beta_schedule", "rescale_betas_zero_snr"]
    accepted = solver._get_init_keys(solver)
    config = {key: scheduler.config[key] for key in inherited if key in accepted and key in scheduler.config}
    made = solver(**{**config, **options})
    if made.config.get("thresholding"):
        # An attribute, not a class of our own: saved with a pipeline, the solver must be one of diffusers.
        made._threshold_sample = _clamped
    return made


def _clamped(clean: torch.Tensor) -> torch.Tensor:
    """x̂₀ clipped to [-1, 1]: diffusers takes a quantile of every image first, which is slower."""
    return clean.clamp(-1, 1)
