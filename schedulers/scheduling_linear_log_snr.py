"""Linear log-SNR: one of the fixed schedules with which Kingma et al., "Variational Diffusion Models" (arXiv
2107.00630), compare those that they learn.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times


class LinearLogSnrScheduler(NoiseSchedule):
    """Linear log-SNR.

    Args:
        log_snr_max: Log-SNR at t = 0.
        log_snr_min: Log-SNR at t = 1.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, log_snr_max: float = 10.0, log_snr_min: float = -10.0) -> np.ndarray:
        """λ = log_snr_max + t(log_snr_min − log_snr_max)."""  # (T,)
        return from_log_snr(log_snr_max + times(num_train_timesteps) * (log_snr_min - log_snr_max))
