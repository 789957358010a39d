"""The learning rate over a run, as a factor of its peak."""

from collections.abc import Callable

import torch
from diffusers.optimization import get_scheduler

from cardiff.config.sections import TrainConfig


def learning_rate_factor(train: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """A function that maps the number of steps done to the factor of the next one.

    warmup_stable_decay (Hu et al., "MiniCPM", arXiv 2404.06395, section 4) is constant after the warm-up and falls
    linearly to 0 in the last part of the run, so that a run can be prolonged from a checkpoint before that. The others
    are diffusers'.
    """
    if train.lr_schedule == "warmup_stable_decay":
        warmup, decay = train.lr_warmup_steps, max(1, round(train.lr_decay_fraction * total_steps))

        def factor(step: int) -> float:
            rising = step / warmup if step < warmup else 1.0
            return max(0.0, min(rising, (total_steps - step) / decay))

        return factor
    unused = torch.optim.SGD([torch.zeros(1)])
    schedule = get_scheduler(
        train.lr_schedule, unused, num_warmup_steps=train.lr_warmup_steps, num_training_steps=total_steps
    )
    return schedule.lr_lambdas[0]
