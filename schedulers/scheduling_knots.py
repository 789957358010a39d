"""A schedule from a list of log-SNRs, joined by the monotone cubic of Fritsch and Carlson, "Monotone Piecewise Cubic
Interpolation" (SIAM J. Numer. Anal. 17, 1980), with the slopes of Fritsch and Butland, "A Method for Constructing
Local Monotone Piecewise Cubic Interpolants" (SIAM J. Sci. Stat. Comput. 5, 1984).
"""

import numpy as np

from .scheduling_base import NoiseSchedule, from_log_snr
from .scheduling_base import times as step_times


class KnotsScheduler(NoiseSchedule):
    """Log-SNR through given knots.

    Args:
        log_snr: Log-SNR at each knot, falling.
        times: Time of each knot, rising from 0 (clean) to 1 (noise). Null for evenly spaced ones.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, log_snr: list[float], times: list[float] | None = None) -> np.ndarray:
        """λ at t = 1/T, …, 1 on the monotone cubic through the knots."""  # (T,)
        values = np.asarray(log_snr, dtype=np.float64)
        if len(values) < 2 or not np.all(np.diff(values) < 0):
            raise ValueError(
                f"KnotsScheduler: log_snr={log_snr} must hold two values or more, each below the one before."
            )
        knots = np.linspace(0, 1, len(values)) if times is None else np.asarray(times, dtype=np.float64)
        if not (len(knots) == len(values) and knots[0] == 0 and knots[-1] == 1 and np.all(np.diff(knots) > 0)):
            raise ValueError(
                f"KnotsScheduler: times={times} must rise from 0 to 1, with one for each of the {len(values)} values "
                "of log_snr."
            )
        return from_log_snr(monotone_cubic(knots, values, step_times(num_train_timesteps)))


def monotone_cubic(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The piecewise cubic through (x, y), x rising and y strictly monotone, that is monotone itself."""
    h = np.diff(x)
    secants = np.diff(y) / h
    if len(x) == 2:
        return y[0] + secants[0] * (at - x[0])

    # Slopes: inside, the weighted harmonic mean of the secants on both sides.
    before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inner = (before + after) / (before / secants[:-1] + after / secants[1:])

    def at_end(h: np.ndarray, secants: np.ndarray) -> float:
        slope = ((2 * h[0] + h[1]) * secants[0] - h[0] * secants[1]) / (h[0] + h[1])  # of the parabola
        return slope if slope * secants[0] > 0 else 0.0

    slopes = np.concatenate([[at_end(h, secants)], inner, [at_end(h[::-1], secants[::-1])]])

    # Hermite's basis on each interval.
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(h) - 1)
    u = (at - x[i]) / h[i]
    values = (1 + 2 * u) * (1 - u) ** 2 * y[i] + u**2 * (3 - 2 * u) * y[i + 1]
    return values + h[i] * u * (1 - u) * ((1 - u) * slopes[i] - u * slopes[i + 1])
