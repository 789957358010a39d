"""Sigmoid β: Xu et al., "GeoDiff: a Geometric Diffusion Model for Molecular Conformation Generation" (arXiv
2203.02923), whose code diffusers follows in beta_schedule="sigmoid". It is not the sigmoid ᾱ of scheduling_sigmoid.py.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_betas, from_log_snr, times


class GeodiffSigmoidScheduler(NoiseSchedule):
    """Sigmoid β.

    Args:
        beta_start: What β rises from.
        beta_end: What β rises to.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
        """ᾱ_t = ∏ (1 − β_i), β = beta_start + (beta_end − beta_start)·σ(x), x evenly spaced from −6 to 6."""  # (T,)
        logistic = from_log_snr(np.linspace(-6.0, 6.0, len(times(num_train_timesteps))))
        return from_betas(beta_start + (beta_end - beta_start) * logistic)
