"""Which schedules the laboratory compares, by the names they have in its tables."""

import inspect
from pathlib import Path

from cardiff.config.schedules_by_name import OURS, PUBLISHED, section_of
from cardiff.schedulers import SCHEDULES


def choose_schedules(text: str, spectrum: dict, allow_code: bool = False) -> dict[str, dict]:
    """The `scheduler` sections that an option like all or cosine,linear,mine.yaml asks for, by their names in tables.

    Args:
        text: "all", or what `section_of` takes, with commas.
        spectrum: Arguments that fit a schedule to the data set, for the schedules that take them and are given none.

        allow_code: As of `section_of`.

    Raises:
        UserError: A name is not that of a schedule.
    """
    names = [*PUBLISHED, *OURS] if text == "all" else _names_in(text)
    called = {Path(name).stem if name.endswith((".yaml", ".yml")) else name: name for name in names}
    return {short: with_spectrum(section_of(name, allow_code), spectrum) for short, name in called.items()}


def _names_in(text: str) -> list[str]:
    """The names of a list with commas, some of which have a comma themselves."""
    names, parts = [], [part.strip() for part in text.split(",")]
    while parts:
        two = ", ".join(parts[:2])
        names.append(two if two in PUBLISHED | OURS else parts[0])
        del parts[: 2 if names[-1] == two else 1]
    return names


def with_spectrum(section: dict, spectrum: dict) -> dict:
    """The section with the data set's spectrum, if its schedule takes one and the section gives none."""
    schedule = SCHEDULES.get(section["name"])
    takes = {} if schedule is None else inspect.signature(schedule.alphas_bar).parameters
    if "octave_powers" in section or "octave_powers" not in takes:
        return dict(section)
    return {**{key: value for key, value in spectrum.items() if key in takes}, **section}
