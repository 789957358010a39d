"""Noise schedules as DDPMScheduler subclasses, one file each, found by name."""

from schedulers.scheduling_base import NoiseSchedule
from schedulers.scheduling_cosine import CosineScheduler
from schedulers.scheduling_linear import LinearScheduler
from schedulers.scheduling_sigmoid import SigmoidScheduler

SCHEDULES: dict[str, type[NoiseSchedule]] = {
    "linear": LinearScheduler,
    "cosine": CosineScheduler,
    "sigmoid": SigmoidScheduler,
}

__all__ = ["SCHEDULES", "CosineScheduler", "LinearScheduler", "NoiseSchedule", "SigmoidScheduler"]
