"""What a configuration says of its data set, which does not hold for another one that is named after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from cardiff.cli import say_note
from cardiff.config.files import ConfigFile
from cardiff.config.limits import Option
from cardiff.config.sections import DataConfig

OF_DATA_SET = tuple(field.name for field in fields(DataConfig) if Option.of(field).of_data_set)
"""Options of a data section that speak of its one data set; the others are what is done to any images."""


@dataclass(frozen=True)
class LeftOut:
    """Options of a file that are not taken over, since a later file or option names another data set."""

    file: str
    path: str
    """`data.path` of the file."""
    options: dict[str, Any]

    def report(self, data: DataConfig) -> None:
        """Print which of them have no value now, unless that is the same."""
        lost = [
            f"data.{name} ({value})"
            for name, value in self.options.items()
            if getattr(data, name) == getattr(DataConfig, name) != value
        ]
        if lost:
            say_note(
                f"{self.file} says {', '.join(lost)} of its data.path {self.path}, which is not taken over for "
                f"{data.path}: give what holds there, if it is needed."
            )


def fit_to_data_set(
    files: Sequence[ConfigFile], path: str | None, data_files: Any
) -> tuple[list[ConfigFile], list[LeftOut]]:
    """The files without what they say of a data set that is not the one of the run, and what was left out.

    Args:
        files: In their order.
        path: `data.path` of the command line, if given.
        data_files: `data.data_files` of the command line, if given.
    """
    sections = [file.section("data") for file in files]
    of_run, run_files = DataConfig.path, None
    for section in [*sections, {"path": path, "data_files": data_files}]:
        new = section.get("path")
        if new is not None and not _same_path(str(new), of_run):
            of_run, run_files = str(new), None
        run_files = _listed(section.get("data_files")) or run_files
    fitted, left = [], []
    for file, section in zip(files, sections):
        if "path" in section and not _same_data_set(section, of_run, run_files):
            options = {name: section[name] for name in OF_DATA_SET if name in section}
            left.append(LeftOut(file.name, str(section["path"]), options))
            file = file.without("data", options)
        fitted.append(file)
    return fitted, left


def _same_data_set(section: dict, path: str, data_files: list[str] | None) -> bool:
    """Whether a data section is of the data set of this path; what a format is depends on the files too."""
    own = _listed(section.get("data_files"))
    if not _same_path(str(section["path"]), path):
        return False
    return own is None or list(map(os.path.abspath, own)) == list(map(os.path.abspath, data_files or []))


def _same_path(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def _listed(value: Any) -> list[str] | None:
    return value and [str(part) for part in (value if isinstance(value, list) else [value])]
