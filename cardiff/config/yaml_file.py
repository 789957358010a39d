"""Reads YAML files, which may come from anyone."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import yaml

from cardiff.errors import UserError

LARGEST_YAML = 2**20
"""Maximum size of a YAML file in bytes; a run's config.yaml has about two thousand."""


MOST_VALUES = 200_000
"""Maximum number of values with references (&, *) expanded; real configurations have less than a hundredth."""


def read_yaml(file: Path) -> object:
    """The content of a YAML file, which may come from anyone.

    Raises:
        UserError: It cannot be read, is not YAML, or is too large, too deeply nested or endlessly self-referential.
    """
    try:
        if file.stat().st_size > LARGEST_YAML:
            raise UserError(
                f"{file} is larger than {LARGEST_YAML >> 20} MiB, too large for a configuration: see configs/ for "
                "examples."
            )
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if len(list(islice(_values(content), MOST_VALUES))) == MOST_VALUES:
            raise UserError(f"{file} expands to too many values through references (&, *): write them out.")
        return content
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply to be read: see configs/ for examples.") from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{file} is not a YAML file ({' '.join(str(error).split())}): see configs/ for examples."
        ) from error


def _values(content: object) -> Iterator[object]:
    yield content
    if isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _values(value)


def read_sections(name: str | Path) -> dict:
    """The content of a YAML file of options by name, as every configuration is.

    Raises:
        UserError: It cannot be read, or contains something else.
    """
    content = read_yaml(Path(name))
    if not isinstance(content, dict):
        raise UserError(f"{name} has no sections: see configs/ for examples.")
    return content
