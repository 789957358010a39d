"""Configurations as YAML files: read once, and handed to a parser as what they hold."""

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
        """The file of this name.

        Raises:
            UserError: It cannot be read, or is not a YAML file with sections.
        """
        return cls(str(name), read_sections(name))

    def section(self, name: str) -> dict:
        """The options of a section; none where the file does not have it.

        Raises:
            UserError: The section is empty, or is not a section.
        """
        section = self.content.get(name, {})
        if section is None:
            raise UserError(f"The section {name} of {self.name} is empty: give its options, or leave it out.")
        if not isinstance(section, dict):
            raise UserError(f"{name} of {self.name} is {section!r}, but must be a section of options.")
        return section

    def only(self, section: str) -> ConfigFile:
        """The same with nothing but this section."""
        return replace(self, content={section: self.section(section)})

    def without(self, section: str, options: Collection[str]) -> ConfigFile:
        """The same without these options of a section."""
        if section not in self.content:
            return self
        kept = {key: value for key, value in self.section(section).items() if key not in options}
        return replace(self, content={**self.content, section: kept})


class ConfigFileOption(ActionConfigFile):
    """`--config FILE` of a parser whose files were read before: `parse_with_files` is given them."""

    def __call__(self, parser: ArgumentParser, cfg: Namespace, values: str, option_string: str | None = None) -> None:
        """Nothing is left to do."""


def parse_with_files(parser: CommandLine, files: Sequence[ConfigFile], argv: Sequence[str]) -> Namespace:
    """Parse a command line; a later file beats an earlier one, and the command line beats them all."""
    given: dict = {}
    for file in files:
        for key, value in file.content.items():
            given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
    sections = {key: Namespace(**value) if isinstance(value, dict) else value for key, value in given.items()}
    parsed = parser.parse_args(argv, namespace=Namespace(**sections))
    return parser.parse_object(parsed)  # numbers of the files in their options' types: 1 for a float is 1.0


class FileParser(CommandLine):
    """A parser of files, whose errors are for the caller to place."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(self._one_sentence(str(message))) from ex


def data_section(name: Path) -> DataConfig:
    """The data section of a YAML file, read as a training script does; what else a run's file has is passed over.

    Raises:
        UserError: There is no such file, or it has no data section, or one that cannot be used.
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
