"""YAML configuration files: read once, with their content passed to a parser."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from cardiff.cli import CommandLine
from cardiff.config.sections import DataConfig
from cardiff.config.yaml_file import read_sections
from cardiff.errors import UserError


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file with sections."""

    name: str
    """The file, as the user named it."""
    content: dict

    @classmethod
    def read(cls, name: str | Path) -> ConfigFile:
        """Read a file.

        Raises:
            UserError: It cannot be read, or is not a YAML file with sections.
        """
        return cls(str(name), read_sections(name))

    def section(self, name: str) -> dict:
        """The options of a section; empty if the file does not have it.

        Raises:
            UserError: The section has no options, or is not a mapping.
        """
        section = self.content.get(name, {})
        if section is None:
            raise UserError(f"The section {name} in {self.name} is empty: give it options, or remove it.")
        if not isinstance(section, dict):
            raise UserError(f"{name} in {self.name} is {section!r}, but must be a section with options.")
        return section

    def only(self, section: str) -> ConfigFile:
        """A copy with only this section."""
        return replace(self, content={section: self.section(section)})

    def without(self, section: str, options: Collection[str]) -> ConfigFile:
        """A copy without these options of a section."""
        if section not in self.content:
            return self
        kept = {key: value for key, value in self.section(section).items() if key not in options}
        return replace(self, content={**self.content, section: kept})


class ConfigFileOption(ActionConfigFile):
    """`--config FILE` for a parser whose files have already been read and are passed to `parse_with_files`."""

    def __call__(self, parser: ArgumentParser, cfg: Namespace, values: str, option_string: str | None = None) -> None:
        """Do nothing."""


def parse_with_files(parser: CommandLine, files: Sequence[ConfigFile], argv: Sequence[str]) -> Namespace:
    """Parse a command line; later files override earlier ones, and the command line overrides them all."""
    given: dict = {}
    for file in files:
        for key, value in file.content.items():
            given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
    sections = {key: Namespace(**value) if isinstance(value, dict) else value for key, value in given.items()}
    parsed = parser.parse_args(argv, namespace=Namespace(**sections))
    return parser.parse_object(parsed)  # converts numbers from the files to their options' types: 1 to 1.0 for a float


class FileParser(CommandLine):
    """A parser for files, which raises its errors so that the caller can add the file's name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(self._one_sentence(str(message))) from ex


def data_section(name: Path) -> DataConfig:
    """The data section of a YAML file, read as by a training script; other sections are ignored.

    Raises:
        UserError: The file does not exist, has no data section, or has an invalid one.
    """
    file = ConfigFile.read(name)
    if not isinstance(file.content.get("data"), dict):
        raise UserError(f"{name} has no data section: see configs/ for examples.")
    parser = FileParser("")
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    try:
        data = DataConfig(**parse_with_files(parser, [file.only("data")], []).data.as_dict())
        data.check()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return data
