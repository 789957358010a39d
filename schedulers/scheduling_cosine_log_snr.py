"""Cosine in log-SNR, shifted: Hoogeboom, Heek, Salimans, "simple diffusion: End-to-end diffusion for high resolution
images" (arXiv 2301.11093), section 3.1.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr, times


class CosineLogSnrScheduler(NoiseSchedule):
    """Cosine in log-SNR, shifted to the size of the image.

    Args:
        lambda_min: Log-SNR at t = 1, before the shift.
        lambda_max: Log-SNR at t = 0, before the shift.
        shift: Added to log-SNR; the paper's is 2·ln(d₀/d) for images of d pixels, with d₀ of 32 or 64.
        shift_clean: Shift at t = 0 where it differs from that at t = 1, with `shift` as the latter; in between they
            are interpolated. Null for the same everywhere.
    """

    @staticmethod
    def alphas_bar(
        num_train_timesteps: int,
        lambda_min: float = -15.0,
        lambda_max: float = 15.0,
        shift: float = 0.0,
        shift_clean: float | None = None,
    ) -> np.ndarray:
        """λ = −2·ln tan(angle) + t·shift + (1 − t)·shift_clean, with an angle that is linear in t."""  # (T,)
        if not lambda_max > lambda_min:
            raise ValueError(f"CosineLogSnrScheduler: lambda_max={lambda_max} must be above lambda_min={lambda_min}.")
        t = times(num_train_timesteps)
        t_min, t_max = np.arctan(np.exp(-lambda_max / 2)), np.arctan(np.exp(-lambda_min / 2))
        log_snr = -2 * np.log(np.tan(t_min + t * (t_max - t_min)))
        return from_log_snr(log_snr + t * shift + (1 - t) * (shift if shift_clean is None else shift_clean))
