"""Noise schedules as DDPMScheduler subclasses, one file each, found by name.

`scheduling_<name>.py` brings the schedule `<name>`: the one NoiseSchedule that it defines. The names are those of the
files, so they are known without importing diffusers; a schedule is imported when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "find_arguments",
    "find_schedule",
    "load_function",
    "schedule_from_function",
]

_MODULES = {
    "CosineScheduler": "scheduling_cosine",
    "LinearScheduler": "scheduling_linear",
    "NoiseSchedule": "scheduling_base",
    "SigmoidScheduler": "scheduling_sigmoid",
    "load_function": "from_function",
    "schedule_from_function": "from_function",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


class _Schedules(Mapping[str, "type[NoiseSchedule]"]):
    """Every schedule by name, in alphabetical order."""

    def __init__(self) -> None:
        files = [module.name for module in pkgutil.iter_modules(__path__)]
        names = [name.removeprefix("scheduling_") for name in files if name.startswith("scheduling_")]
        self._names = dict.fromkeys(name for name in names if name != "base")

    def __getitem__(self, name: str) -> type[NoiseSchedule]:
        if name not in self._names:
            raise KeyError(name)
        from .scheduling_base import NoiseSchedule

        module = importlib.import_module(f"{__name__}.scheduling_{name}")
        (schedule,) = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, NoiseSchedule) and value.__module__ == module.__name__
        )
        return schedule

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


SCHEDULES = _Schedules()


def find_schedule(name: str) -> type[NoiseSchedule]:
    """The schedule of a registered name, or of a function of one's own given as FILE.py:FUNCTION.

    Raises:
        ValueError: There is no such schedule, file or function.
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    from .from_function import schedule_from_function

    return schedule_from_function(_function_of(name))


def find_arguments(name: str) -> type:
    """A class with the constructor of the schedule that `find_schedule` finds, for a parser of options.

    It is made without importing diffusers, which takes seconds, where the schedule's file allows it.

    Raises:
        ValueError: There is no such schedule, file or function.
    """
    if name not in SCHEDULES:
        from .from_function import stand_in_of_function

        return stand_in_of_function(_function_of(name))
    from .arguments import read_stand_in

    spec = importlib.util.find_spec(f"{__name__}.scheduling_{name}")
    assert spec is not None and spec.origin is not None
    try:
        return read_stand_in(Path(spec.origin))
    except (ValueError, NameError):  # a schedule written in another way than those of this folder
        return SCHEDULES[name]


def _function_of(name: str) -> Callable:
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        from .from_function import load_function

        return load_function(path, function)
    near = difflib.get_close_matches(name, SCHEDULES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(SCHEDULES)}, or FILE.py:FUNCTION."
    raise ValueError(f"There is no schedule {name!r}; {hint}")
