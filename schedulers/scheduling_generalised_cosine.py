"""Cosine ᾱ between two points and to a power: Chen, "On the Importance of Noise Scheduling for Diffusion Models"
(arXiv 2301.10972), algorithm 1.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, times


class GeneralisedCosineScheduler(NoiseSchedule):
    """Cosine ᾱ between two points and to a power.

    Args:
        start: Where on the quarter wave t = 0 lies, from 0.
        end: Where on the quarter wave t = 1 lies, up to 1.
        tau: Power: large values add noise earlier.
    """

    @staticmethod
    def alphas_bar(num_train_timesteps: int, start: float = 0.0, end: float = 1.0, tau: float = 1.0) -> np.ndarray:
        """ᾱ = (g(u) − g(end)) / (g(start) − g(end)), u = start + t(end − start), g(u) = cos(uπ/2)^2τ; ends at 1e-9."""
        if not (tau > 0 and 0 <= start < end <= 1):
            raise ValueError(
                f"GeneralisedCosineScheduler: tau={tau} must be above 0, and start={start} from 0 to below end={end}, "
                "which is at most 1."
            )

        def power(u: np.ndarray | float) -> np.ndarray:
            return np.cos(u * np.pi / 2) ** (2 * tau)

        t = times(num_train_timesteps)
        alphas_bar = (power(t * (end - start) + start) - power(end)) / (power(start) - power(end))
        # The paper clips at 1e-9. With a large power several steps meet that bound, and equal ᾱ are no steps.
        return 1e-9 + (1 - 1e-9) * alphas_bar
