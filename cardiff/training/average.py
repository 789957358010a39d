"""The average of the weights over the steps of a run, from which samples are drawn."""

from collections.abc import Iterable

import torch
from diffusers.training_utils import EMAModel


class WeightAverage(EMAModel):
    """diffusers' average of the weights, taken in one pass over memory instead of three.

    s ← s + (1 − d)·(p − s) after step n = 0, 1, …, with d = 0 at n = 0 and min(decay, (1+n)/(10+n)) from then on.
    """

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Move the averages towards the weights, which must be in the order given to the constructor."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - self.cur_decay_value)
