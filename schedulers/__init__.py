"""Noise schedules as DDPMScheduler subclasses, one file each, found by name.

`scheduling_<name>.py` brings the schedule `<name>`: the one NoiseSchedule that it defines.
"""

import difflib
import importlib
import pkgutil

from .from_function import load_function, schedule_from_function
from .scheduling_base import NoiseSchedule
from .scheduling_cosine import CosineScheduler
from .scheduling_linear import LinearScheduler
from .scheduling_sigmoid import SigmoidScheduler

__all__ = [
    "SCHEDULES",
    "CosineScheduler",
    "LinearScheduler",
    "NoiseSchedule",
    "SigmoidScheduler",
    "find_schedule",
    "load_function",
    "schedule_from_function",
]


def _defined_in(module) -> type[NoiseSchedule]:
    (schedule,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, NoiseSchedule) and value.__module__ == module.__name__
    )
    return schedule


SCHEDULES: dict[str, type[NoiseSchedule]] = {
    module.name.removeprefix("scheduling_"): _defined_in(importlib.import_module(f"{__name__}.{module.name}"))
    for module in pkgutil.iter_modules(__path__)
    if module.name.startswith("scheduling_") and module.name != "scheduling_base"
}
"""Every schedule by name, in alphabetical order."""


def find_schedule(name: str) -> type[NoiseSchedule]:
    """The schedule of a registered name, or of a function of one's own given as FILE.py:FUNCTION.

    Raises:
        ValueError: There is no such schedule, file or function.
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return schedule_from_function(load_function(path, function))
    near = difflib.get_close_matches(name, SCHEDULES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SCHEDULES)}, or FILE.py:FUNCTION."
    raise ValueError(f"There is no schedule {name!r}; {hint}")
