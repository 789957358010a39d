"""β = 1/T, 1/(T − 1), …, 1: Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics"
(arXiv 1503.03585), section 2.4.1, which the code of Ho et al. (arXiv 2006.11239) calls jsd.
"""

import numpy as np

from .scheduling_base import NoiseSchedule, times


class JsdScheduler(NoiseSchedule):
    """Linear ᾱ, which is β = 1/T, 1/(T − 1), …, 1."""

    @staticmethod
    def alphas_bar(num_train_timesteps: int) -> np.ndarray:
        """ᾱ = 1 − t, at least 1e-9."""  # (T,)
        return np.maximum(1 - times(num_train_timesteps), 1e-9)  # only t = 1 meets the bound
