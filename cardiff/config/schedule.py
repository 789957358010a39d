"""The section `scheduler`: the name of a schedule and the arguments of its class, which depend on the name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardiff.cli import CommandLine
from cardiff.config.files import ConfigFile
from cardiff.errors import UserError, user_errors
from cardiff.schedulers import SCHEDULES, find_arguments, find_schedule

if TYPE_CHECKING:
    from cardiff.schedulers import NoiseSchedule

DEFAULT = "cosine"
"""The default schedule."""


def make_schedule(scheduler: dict) -> NoiseSchedule:
    """Build the schedule of a `scheduler` section: `name` selects it, and the other keys are its arguments.

    Raises:
        UserError: There is no such schedule, or its arguments are invalid.
    """
    arguments = dict(scheduler)
    with user_errors():
        return find_schedule(arguments.pop("name"))(**arguments)


def choose_schedule(files: Sequence[ConfigFile], given: str | None) -> tuple[str, type]:
    """The name of a run's schedule and its arguments, from `find_arguments`.

    The command line takes precedence; otherwise, the last file that names a schedule decides.

    Raises:
        UserError: `scheduler.name` is empty in a file, or there is no such schedule.
    """
    names = []
    for file in files:
        section = file.section("scheduler")
        if section.get("name", "") is None:
            raise UserError(f"scheduler.name in {file.name} is empty: choose from {', '.join(SCHEDULES)}.")
        names += [str(section["name"])] if "name" in section else []
    name = given if given is not None else next(reversed(names), DEFAULT)
    try:
        return name, find_arguments(name)
    except ValueError as error:
        raise UserError(f"scheduler.name: {error}") from error


def add_scheduler(parser: CommandLine, name: str, arguments: type) -> None:
    """Add the options of the section for this schedule."""
    parser.add_argument(
        "--scheduler.name",
        type=str,
        default=name,
        help=f"Noise schedule: {', '.join(SCHEDULES)}, or FILE.py:FUNCTION for a function of your own that returns "
        "alphas_cumprod at the times t. It determines the options below.",
    )
    parser.add_class_arguments(arguments, "scheduler", skip={"trained_betas"})


def fit_to_schedule(file: ConfigFile, arguments: type) -> ConfigFile:
    """The file without the arguments of its own schedule that the run's schedule does not take."""
    try:
        own = inspect.signature(find_arguments(str(file.section("scheduler")["name"]))).parameters
    except (KeyError, ValueError):
        return file  # it names no schedule, or an unknown one, which is an error only if the run uses it
    return file.without("scheduler", own.keys() - inspect.signature(arguments).parameters.keys())
