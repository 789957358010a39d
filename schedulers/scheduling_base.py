"""What every noise schedule of this project shares: ᾱ in float64, checked, and registered as trained_betas."""

import numpy as np
from diffusers import DDPMScheduler


class NoiseSchedule(DDPMScheduler):
    """A DDPMScheduler whose betas come from ᾱ(t), given as `alphas_cumprod` for t = 1/T, 2/T, …, 1 (float64, (T,)).

    The betas are handed to DDPMScheduler as `trained_betas`, so they are part of the config: every diffusers
    scheduler made by `from_config`, and a stock DDPMScheduler saved from here, has exactly the same ᾱ. (A subclass
    that overwrote `self.betas` would silently turn into the linear schedule when converted.)

    Raises:
        ValueError: ᾱ does not fall strictly from below 1 to above 0.
    """

    def __init__(self, alphas_cumprod: np.ndarray, **scheduler_kwargs):
        self._check(alphas_cumprod)
        betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
        super().__init__(num_train_timesteps=len(betas), trained_betas=betas.tolist(), **scheduler_kwargs)
        self._check(self.alphas_cumprod.numpy())  # as diffusers keeps it, in float32

    def _check(self, alphas_cumprod: np.ndarray) -> None:
        name = type(self).__name__
        if not np.all(np.isfinite(alphas_cumprod)):
            raise ValueError(f"{name}: alphas_cumprod is not finite; check the schedule's parameters.")
        falling = np.diff(alphas_cumprod, prepend=np.ones(1, alphas_cumprod.dtype)) < 0
        if not (np.all(falling) and alphas_cumprod[-1] > 0):
            raise ValueError(
                f"{name}: alphas_cumprod must fall strictly from below 1 to above 0, in {alphas_cumprod.dtype}; "
                "check the schedule's parameters."
            )

    def to_stock(self) -> DDPMScheduler:
        """The same scheduler as a plain DDPMScheduler, which any diffusers loads without this project."""
        return DDPMScheduler.from_config({k: self.config[k] for k in stock_arguments() if k in self.config})


def stock_arguments() -> list[str]:
    """Names of DDPMScheduler's own constructor arguments."""
    return sorted(DDPMScheduler._get_init_keys(DDPMScheduler) - {"self", "kwargs"})


def times(num_train_timesteps: int) -> np.ndarray:
    """t = 1/T, 2/T, …, 1 in float64: the time *after* each of the T steps."""  # (T,)
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps is {num_train_timesteps}, but must be 1 or more.")
    return np.arange(1, num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
