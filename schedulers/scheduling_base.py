"""What every noise schedule of this project shares: a constructor, ᾱ in float64, and betas that survive conversion.

A schedule is one function, `alphas_bar`, whose signature an editor shows; the constructor is made from it at run time
(arguments.py), so `help()` shows all arguments and a type checker accepts any. Two other forms were weighed. With an
`__init__` written out in each, as in diffusers, a file grows by half (by a count, not by trial), and the eight common
arguments and their defaults stand in it again. With the parameters as fields (typing.dataclass_transform, tried on two
schedules) checkers see them and files are as short, but the constructor is still made at run time, since diffusers
reads its signature; every value lives twice, in the attribute and in `config`, and the two come apart when diffusers
changes the latter; and a parameter cannot be called like an attribute of a scheduler, as the table's `alphas_cumprod`
is.
"""

import html
import inspect
import sys
from typing import Any

import numpy as np
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .arguments import constructor_of

MAX_LOG_SNR_ERROR = 0.05
"""Largest error of log-SNR, where there is more signal than noise, that rounding β to float32 may cause: 5% of SNR.

1 − β rounds to a multiple of 2⁻²⁴, which moves a log-SNR of 12 by up to 0.005, of 14 by 0.04 and of 15 by 0.08.
"""
LONGEST_SHOWN = 80
"""Characters of an argument's value that a notebook shows."""


class NoiseSchedule(DDPMScheduler):
    """A DDPMScheduler whose betas come from a function ᾱ(t).

    A subclass is its `alphas_bar(num_train_timesteps, …)`, which returns ᾱ for t = 1/T, 2/T, …, 1 (float64, (T,)).
    The constructor takes that function's parameters and the ones documented in arguments.py.

    The betas are handed to DDPMScheduler as `trained_betas`, so they are part of the config: every diffusers
    scheduler made by `from_config`, and a stock DDPMScheduler saved from here, has exactly the same ᾱ. (A subclass
    that overwrote `self.betas` would silently turn into the linear schedule when converted.)

    Raises:
        ValueError: ᾱ does not fall strictly from below 1 to above 0, or float32 cannot hold it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ in sys.modules:
            # diffusers looks for it beside a class that it shall load as part of a saved pipeline.
            vars(sys.modules[cls.__module__])["SchedulerMixin"] = SchedulerMixin
        constructor = constructor_of(cls.__name__, inspect.signature(cls.alphas_bar), cls.__doc__)
        parameters = list(constructor.signature.parameters.values())

        def __init__(self: DDPMScheduler, **arguments: Any) -> None:
            # register_to_config has already put the defaults of what was left out into the config.
            given = {p.name: arguments.pop(p.name, p.default) for p in parameters[1:]}
            if arguments:
                raise TypeError(f"{cls.__name__} has no argument {', '.join(arguments)}.")
            _check_arguments(cls.__name__, given)
            own = {argument: given[argument] for argument in constructor.own}
            alphas_cumprod = cls.alphas_bar(given["num_train_timesteps"], **own)
            alphas_cumprod = np.asarray(alphas_cumprod, dtype=np.float64)
            zero_snr = given["rescale_betas_zero_snr"]
            _check_formula(cls.__name__, alphas_cumprod, given["num_train_timesteps"], zero_snr)
            alphas_cumprod = scale_input(alphas_cumprod, given["input_scale"])
            alphas_cumprod = rescale_zero_snr(alphas_cumprod) if zero_snr else alphas_cumprod
            betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
            # Its own constructor registers its arguments too: those it shares with the subclass must be passed on.
            stock = {name: value for name, value in given.items() if name in stock_arguments()}
            DDPMScheduler.__init__(self, **{**stock, "trained_betas": betas.tolist()})
            _check_float32(cls.__name__, alphas_cumprod, self.alphas_cumprod.double().numpy(), zero_snr)

        # diffusers' configs and the command line read the arguments off the signature, and their help off __doc__.
        setattr(__init__, "__signature__", constructor.signature)  # noqa: B010  no checker knows the attribute
        __init__.__doc__ = constructor.doc
        setattr(cls, "__init__", register_to_config(__init__))  # noqa: B010  nor that a method is set

    def to_stock(self) -> DDPMScheduler:
        """The same scheduler as a plain DDPMScheduler, which any diffusers loads without this project."""
        return DDPMScheduler.from_config({k: self.config[k] for k in stock_arguments() if k in self.config})

    def _repr_html_(self) -> str:
        """What a notebook shows: the arguments and the range of log-SNR, but none of the T betas."""
        ends = self.alphas_cumprod[[0, -1]].double()
        first, last = (ends.log() - (1 - ends).log()).tolist()
        rows = []
        for name in list(inspect.signature(type(self).__init__).parameters)[1:]:
            if name != "trained_betas":
                text = str(self.config[name])
                text = text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
                rows.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>")
        return (
            f"<b>{html.escape(type(self).__name__)}</b>: log-SNR falls from {first:.2f} to {last:.2f} in "
            f"{len(self.alphas_cumprod):,} steps<table>{''.join(rows)}</table>"
        )


def stock_arguments() -> list[str]:
    """Names of DDPMScheduler's own constructor arguments."""
    return sorted(DDPMScheduler._get_init_keys(DDPMScheduler) - {"self", "kwargs"})


def times(num_train_timesteps: int) -> np.ndarray:
    """t = 1/T, 2/T, …, 1 in float64: the time *after* each of the T steps."""  # (T,)
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps is {num_train_timesteps}, but must be 1 or more.")
    return np.arange(1, num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps


def middles(num_train_timesteps: int) -> np.ndarray:
    """t = (i + ½)/T in float64: the middle of each of the T steps, for what is infinite at t = 0 and 1."""  # (T,)
    return times(num_train_timesteps) - 0.5 / num_train_timesteps


def from_log_snr(log_snr: np.ndarray) -> np.ndarray:
    """ᾱ = SNR/(1 + SNR) of log-SNR, without overflow."""
    return np.exp(-np.logaddexp(0, -np.asarray(log_snr, dtype=np.float64)))


def from_betas(betas: np.ndarray) -> np.ndarray:
    """ᾱ_t = ∏ (1 − β_i)."""
    return np.cumprod(1 - betas)


def scale_input(alphas_cumprod: np.ndarray, b: float) -> np.ndarray:
    """ᾱ of the image times b, the sum with the noise then divided to variance 1: Chen (arXiv 2301.10972).

    √ᾱ·b·x₀ + √(1 − ᾱ)·ε over √(b²ᾱ + 1 − ᾱ) is the process with ᾱ' = b²ᾱ/(b²ᾱ + 1 − ᾱ).
    """
    return b**2 * alphas_cumprod / (b**2 * alphas_cumprod + 1 - alphas_cumprod)


def rescale_zero_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """√ᾱ shifted to 0 at its last step and scaled back at its first: Lin et al. (arXiv 2305.08891), algorithm 1."""
    a = np.sqrt(alphas_cumprod)
    return ((a - a[-1]) * (a[0] / (a[0] - a[-1]))) ** 2


def _check_arguments(name: str, given: dict) -> None:
    for argument, value in given.items():
        if value is inspect.Parameter.empty:
            raise ValueError(f"{name}: {argument} has no default: give it.")
        if argument == "trained_betas":
            continue
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not np.isfinite(number):
                raise ValueError(f"{name}: {argument}={value} must be finite.")
    if given["num_train_timesteps"] < 1:
        raise ValueError(f"{name}: num_train_timesteps is {given['num_train_timesteps']}, but must be 1 or more.")
    if not given["input_scale"] > 0:
        raise ValueError(f"{name}: input_scale={given['input_scale']} must be above 0.")
    if given["rescale_betas_zero_snr"] and given["prediction_type"] == "epsilon":
        raise ValueError(
            f"{name}: with rescale_betas_zero_snr the last step is pure noise, where prediction_type epsilon "
            "does not determine the image: choose v_prediction or sample."
        )
    if given["rescale_betas_zero_snr"] and given["num_train_timesteps"] < 2:
        raise ValueError(f"{name}: rescale_betas_zero_snr needs num_train_timesteps of 2 or more.")


def _check_formula(name: str, alphas_cumprod: np.ndarray, num_train_timesteps: int, zero_snr: bool) -> None:
    """Refuse what is not a schedule; with zero_snr its last ᾱ may be 0 already."""
    if alphas_cumprod.shape != (num_train_timesteps,):
        raise ValueError(
            f"{name}: alphas_cumprod has the shape {alphas_cumprod.shape}, but num_train_timesteps is "
            f"{num_train_timesteps}: give one value for each."
        )
    if not np.all(np.isfinite(alphas_cumprod)):
        raise ValueError(f"{name}: alphas_cumprod is not finite; check the schedule's parameters.")
    if np.any(alphas_cumprod[:-1] <= 0) or alphas_cumprod[-1] < 0:
        i = int(np.argmax(alphas_cumprod <= 0))
        raise ValueError(
            f"{name}: alphas_cumprod must stay above 0, but is {alphas_cumprod[i]:.6g} at step {i}, where a beta of 1 "
            "or more or too much noise has used it up; check the schedule's parameters."
        )
    if alphas_cumprod[-1] == 0 and not zero_snr:
        raise ValueError(
            f"{name}: alphas_cumprod ends at 0, a beta of 1: set rescale_betas_zero_snr if the last step is meant to "
            "be pure noise, or change the schedule's parameters."
        )
    steps = np.diff(alphas_cumprod, prepend=1.0)
    if not np.all(steps < 0):
        i = int(np.argmax(steps >= 0))
        before = "1" if i == 0 else f"{alphas_cumprod[i - 1]:.6g}"
        raise ValueError(
            f"{name}: alphas_cumprod must fall strictly from below 1, but step {i} takes it from {before} to "
            f"{alphas_cumprod[i]:.6g}; check the schedule's parameters."
        )


def _check_float32(name: str, alphas_cumprod: np.ndarray, rounded: np.ndarray, zero_snr: bool) -> None:
    """Refuse what diffusers, which keeps betas and ᾱ in float32, would make another schedule of."""
    inner, inner_rounded = (a[:-1] if zero_snr else a for a in (alphas_cumprod, rounded))
    with np.errstate(divide="ignore"):
        log_snr, log_snr_rounded = (np.log(a) - np.log1p(-a) for a in (inner, inner_rounded))
    if rounded[-1] != 0 if zero_snr else rounded[-1] < np.finfo(np.float32).tiny:
        raise ValueError(
            f"{name}: alphas_cumprod ends at {alphas_cumprod[-1]:.3g}, which diffusers' float32 cannot hold: let the "
            "schedule end with less noise, or set rescale_betas_zero_snr for a last step of pure noise."
        )
    wrong = (log_snr > 0) & ~(np.abs(log_snr_rounded - log_snr) < MAX_LOG_SNR_ERROR)
    wrong |= np.diff(inner_rounded, prepend=1.0) >= 0
    if not np.any(wrong):
        return
    i = int(np.argmax(wrong))
    becomes = f"log-SNR is {log_snr[i]:.2f} at step {i}, which becomes {log_snr_rounded[i]:.2f} in diffusers' float32"
    if log_snr[0] > 14:
        raise ValueError(f"{name}: {becomes}; up to 14 is possible: let the schedule start with more noise.")
    raise ValueError(
        f"{name}: {becomes}, which rounds such short steps away: use longer steps there, or fewer timesteps."
    )
