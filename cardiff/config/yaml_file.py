"""Reading a YAML file, which may be anybody's."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import yaml

from cardiff.errors import UserError

LARGEST_YAML = 2**20
"""Bytes of the largest YAML file that is read; a run's has two thousand."""


MOST_VALUES = 200_000
"""Values, references followed, of which no configuration has a hundredth."""


def read_yaml(file: Path) -> object:
    """The content of a YAML file, which may be anybody's.

    Raises:
        UserError: It cannot be read, or is not YAML that a person wrote.
    """
    try:
        if file.stat().st_size > LARGEST_YAML:
            raise UserError(
                f"{file} is larger than {LARGEST_YAML >> 20} MiB, which no configuration is: see configs/."
            )
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if len(list(islice(_values(content), MOST_VALUES))) == MOST_VALUES:
            raise UserError(f"{file} refers to its own parts (&, *) without end: write them out.")
        return content
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply to be read: see configs/ for examples.") from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file} is not a YAML file ({' '.join(str(error).split())}): see configs/.") from error


def _values(content: object) -> Iterator[object]:
    yield content
    if isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _values(value)


def read_sections(name: str | Path) -> dict:
    """The content of a YAML file that holds options by name, as every configuration does.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    content = read_yaml(Path(name))
    if not isinstance(content, dict):
        raise UserError(f"{name} has no sections: see configs/ for examples.")
    return content
