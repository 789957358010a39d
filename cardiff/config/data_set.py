"""Options that describe a configuration's data set, and are dropped when another data set is named later."""

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
"""Options of a data section that describe its data set; the others describe the processing of any images."""


@dataclass(frozen=True)
class LeftOut:
    """Options of a file that are ignored because a later file or option names another data set."""

    file: str
    path: str
    """`data.path` of the file."""
    options: dict[str, Any]

    def report(self, data: DataConfig) -> None:
        """Print a note about those that are now at a different default."""
        lost = [
            f"data.{name} ({value})"
            for name, value in self.options.items()
            if getattr(data, name) == getattr(DataConfig, name) != value
        ]
        if lost:
            say_note(
                f"{', '.join(lost)} of {self.file} is ignored, since it describes {self.path} and data.path is now "
                f"{data.path}: set it for that data set if needed."
            )


def fit_to_data_set(
    files: Sequence[ConfigFile], path: str | None, data_files: Any
) -> tuple[list[ConfigFile], list[LeftOut]]:
    """The files without the options that describe another data set than the run's, and those options.

    Args:
        files: The configuration files, in order.
        path: `data.path` on the command line, if given.
        data_files: `data.data_files` on the command line, if given.
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
    """Whether a data section describes the data set of this path; where that is a format, the files count too."""
    own = _listed(section.get("data_files"))
    if not _same_path(str(section["path"]), path):
        return False
    return own is None or list(map(os.path.abspath, own)) == list(map(os.path.abspath, data_files or []))


def _same_path(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def _listed(value: Any) -> list[str] | None:
    return value and [str(part) for part in (value if isinstance(value, list) else [value])]
