"""What every noise schedule of this project shares: its arguments, ᾱ in float64, and betas that survive conversion."""

import inspect
from typing import Literal

import numpy as np
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config


class NoiseSchedule(DDPMScheduler):
    """A DDPMScheduler whose betas come from a function ᾱ(t).

    A subclass is its `alphas_bar(num_train_timesteps, …)`, which returns ᾱ for t = 1/T, 2/T, …, 1 (float64, (T,)).
    The constructor takes that function's parameters and the ones documented in `common_arguments`.

    The betas are handed to DDPMScheduler as `trained_betas`, so they are part of the config: every diffusers
    scheduler made by `from_config`, and a stock DDPMScheduler saved from here, has exactly the same ᾱ. (A subclass
    that overwrote `self.betas` would silently turn into the linear schedule when converted.)

    Raises:
        ValueError: ᾱ does not fall strictly from below 1 to above 0.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = [p for p in inspect.signature(cls.alphas_bar).parameters.values() if p.name != "num_train_timesteps"]
        common = list(inspect.signature(common_arguments).parameters.values())

        def __init__(self, **arguments):
            # register_to_config has already put the defaults of what was left out into the config.
            given = {p.name: arguments.get(p.name, p.default) for p in (*own, *common) if p.name != "trained_betas"}
            alphas_cumprod = cls.alphas_bar(given["num_train_timesteps"], **{p.name: given[p.name] for p in own})
            self._check(alphas_cumprod)
            betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
            # Its own constructor registers its arguments too: those it shares with the subclass must be passed on.
            stock = {name: value for name, value in given.items() if name in stock_arguments()}
            DDPMScheduler.__init__(self, trained_betas=betas.tolist(), **stock)
            self._check(self.alphas_cumprod.numpy())  # as diffusers keeps it, in float32

        # diffusers' configs and the command line read the arguments off the signature, and their help off __doc__.
        self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        __init__.__signature__ = inspect.Signature([self_parameter, *own, *common])
        __init__.__doc__ = f"{inspect.getdoc(cls)}\n{inspect.getdoc(common_arguments).split('Args:')[1].rstrip()}"
        cls.__init__ = register_to_config(__init__)

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


def common_arguments(
    num_train_timesteps: int = 1000,
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
    clip_sample: bool = True,
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
    trained_betas: list[float] | None = None,
):
    """The constructor arguments of every schedule.

    Args:
        num_train_timesteps: Number of noise levels T that the model is trained on.
        prediction_type: What the network predicts: the noise, the velocity, or the clean image.
        variance_type: Variance of a DDPM step: its lower (fixed_small) or upper (fixed_large) bound.
        clip_sample: Clip the predicted clean image to [-1, 1] while sampling.
        timestep_spacing: How fewer than T sampling steps are spread; trailing starts at the noisiest level.
        trained_betas: Ignored, since the betas follow from the other arguments; a converted config carries it.
    """


def stock_arguments() -> list[str]:
    """Names of DDPMScheduler's own constructor arguments."""
    return sorted(DDPMScheduler._get_init_keys(DDPMScheduler) - {"self", "kwargs"})


def times(num_train_timesteps: int) -> np.ndarray:
    """t = 1/T, 2/T, …, 1 in float64: the time *after* each of the T steps."""  # (T,)
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps is {num_train_timesteps}, but must be 1 or more.")
    return np.arange(1, num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
