"""Averages of the weights whose length is chosen after training: Karras et al. (arXiv 2312.02696), section 3.

The average of width σ after n steps has the profile p(τ) ∝ τ^γ over the steps τ: it grows with the run, so that early
weights are forgotten at any length. σ is the standard deviation of the profile over the length of the run. Two such
averages are kept while training, and snapshots of both; an average of any width is then the combination of snapshots
whose profile comes nearest to its own.

Here profiles are those of the sums over steps, not of the paper's integrals: the weights of step τ have the share
(τ^(γ+1) − (τ−1)^(γ+1))/n^(γ+1) in the average after n steps, exactly.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

CHUNK = 2**16
"""Steps whose shares are in memory at once."""


def exponent_of(width: float) -> float:
    """γ of a width: σ² = (γ+1)/((γ+2)²·(γ+3)), the paper's eq. 126, solved for γ > 0.

    Raises:
        ValueError: σ is not between 0 and 0.28; at 0.289 the profile is even, and γ = 0.
    """
    if not 0 < width <= 0.28:
        raise ValueError(f"the width of an average is {width:g}, but must lie above 0 and be 0.28 or less")
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class PowerAverage:
    """The average of a width, kept up to date step by step.

    Args:
        parameters: The weights; the average starts as a copy of them.
        width: σ.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], width: float):
        self.width, self.exponent = width, exponent_of(width)
        self.tensors = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter], step: int) -> None:
        """Move the averages towards the weights after step n = 1, 2, …, by 1 − (1 − 1/n)^(γ+1)."""
        torch._foreach_lerp_(self.tensors, list(parameters), 1 - (1 - 1 / step) ** (self.exponent + 1))


def shares(width: float, steps: int, among: np.ndarray) -> np.ndarray:
    """The share of the weights of each step in the average of a width after `steps` steps; (len(among),)."""
    power = exponent_of(width) + 1
    inside = among <= steps
    # Differences of powers of numbers near 1 lose digits: (τ/n)^p·(1 − (1 − 1/τ)^p).
    with np.errstate(divide="ignore"):
        found = (among / steps) ** power * -np.expm1(power * np.log1p(-1 / among))
    return np.where(inside, found, 0.0)


def combination(snapshots: Sequence[tuple[float, int]], width: float, steps: int) -> tuple[np.ndarray, float]:
    """The factors with which snapshots add up to an average of another width, as nearly as they can.

    Args:
        snapshots: Width and step of each.
        width: Of the average that is wanted.
        steps: After which step.

    Returns:
        A factor for each snapshot, which add up to 1, and how far the sum's profile is from the one that is wanted:
        the sum over the steps of the difference's magnitude, of 2 at most.
    """
    last = max(steps, *(step for _, step in snapshots))
    wanted = [*snapshots, (width, steps)]
    products = np.zeros((len(wanted), len(wanted)))
    chunks = [np.arange(first, min(first + CHUNK, last + 1), dtype=np.float64) for first in range(1, last + 1, CHUNK)]
    for chunk in chunks:
        profiles = np.stack([shares(each, step, chunk) for each, step in wanted])
        products += profiles @ profiles.T
    # Scaled to norm 1, so that long and short profiles count alike; and with factors that add up to 1.
    norms = np.sqrt(np.diag(products))
    gram = products / np.outer(norms, norms)
    count = len(snapshots)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count], system[:count, count], system[count, :count] = gram[:count, :count], 1 / norms[:count], 0
    system[count, :count] = norms[-1] / norms[:count]
    target = np.append(gram[:count, count], 1.0)
    solution = np.linalg.lstsq(system, target, rcond=1e-14)[0]
    factors = solution[:count] * norms[-1] / norms[:count]
    miss = 0.0
    for chunk in chunks:
        profiles = np.stack([shares(each, step, chunk) for each, step in wanted])
        miss += float(np.abs(factors @ profiles[:-1] - profiles[-1]).sum())
    return factors, miss
