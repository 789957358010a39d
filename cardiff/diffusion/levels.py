"""Noise levels: log-SNR λ = ln(ᾱ/(1 − ᾱ)), a = √ᾱ and σ = √(1 − ᾱ) of x_t = a·x₀ + σ·ε, and timesteps by level.

The last step of a zero-terminal-SNR schedule has ᾱ = 0 and λ = −∞. Three functions handle it, each for its own use:

- `log_snr_of` clamps ᾱ to at least 1e-12: for tables of schedules and closed forms;
- `trained_log_snr` clamps ᾱ to [1e-12, 1 − 1e-12]: for finding the trained level nearest to a λ;
- `exact_log_snr` keeps −∞: for labelling and comparing the levels of a model.
"""

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.errors import UserError


def log_snr_of(alphas_cumprod: np.ndarray) -> np.ndarray:
    """ln(ᾱ/(1 − ᾱ)) in float64, with ᾱ clamped to at least 1e-12 for zero-terminal-SNR schedules."""
    alphas_cumprod = np.maximum(np.asarray(alphas_cumprod, dtype=np.float64), 1e-12)
    return np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)


def exact_log_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """ln(ᾱ/(1 − ᾱ)) in float64, −∞ at ᾱ = 0; same shape and device as ᾱ."""
    return torch.logit(alphas_cumprod.double())


def trained_log_snr(scheduler: SchedulerMixin) -> torch.Tensor:
    """Log-SNR of each timestep of a scheduler, decreasing, within ±27.6; float64 (T,)."""
    return torch.logit(scheduler.alphas_cumprod.double(), eps=1e-12)


def a_sigma(log_snr: float) -> tuple[float, float]:
    """√ᾱ and √(1 − ᾱ) at a log-SNR."""
    return float(1 / np.sqrt(1 + np.exp(-log_snr))), float(1 / np.sqrt(1 + np.exp(log_snr)))


def clean_image(x: torch.Tensor, output: torch.Tensor, log_snr: float, prediction_type: str) -> torch.Tensor:
    """x̂₀ from a network's output at x_t: ε (arXiv 2006.11239, eq. 15), v (2202.00512, appendix D) or x₀ itself."""
    a, sigma = a_sigma(log_snr)
    if prediction_type == "epsilon":
        return (x - sigma * output) / a
    if prediction_type == "v_prediction":
        return a * x - sigma * output
    assert prediction_type == "sample"
    return output


def visited_levels(table: np.ndarray, steps: int) -> np.ndarray:
    """The entries of a per-timestep table that `steps` trailing steps visit, cleanest first; (steps,).

    Raises:
        UserError: There are fewer timesteps than steps.
    """
    total = len(table)
    if not 1 <= steps <= total:
        raise UserError(f"{steps} sampling steps were asked for, but the schedule has {total} timesteps.")
    # The positions of DDPMScheduler.set_timesteps with timestep_spacing="trailing" (arXiv 2305.08891, table 2).
    positions = np.round(np.arange(total, 0, -total / steps)[:steps]).astype(int) - 1
    return table[positions[::-1]]


def timesteps_at(scheduler: SchedulerMixin, log_snr: np.ndarray) -> list[int]:
    """The trained timesteps nearest to these log-SNRs, descending: another schedule's steps at the trained levels.

    The network is conditioned on the timestep, so it can only be sampled at the levels that it was trained on; which
    of them are visited is free to choose.
    """
    return sorted(set(nearest_timesteps(scheduler, log_snr).tolist()), reverse=True)


def nearest_timesteps(scheduler: SchedulerMixin, log_snr: np.ndarray) -> np.ndarray:
    """For each of these log-SNRs (n,) the trained timestep nearest to it; int (n,)."""
    trained = trained_log_snr(scheduler).numpy()  # decreasing in t
    return np.abs(trained - np.asarray(log_snr, dtype=np.float64)[:, None]).argmin(1)
