"""Code named in a YAML file runs only if it is also named on the command line, or allowed there by --allow_code."""

import argparse
import re
from collections.abc import Iterator, Sequence

from cardiff.errors import UserError

ALLOW_CODE = "Run functions named in a YAML file as FILE.py:FUNCTION even if they are not named on the command line."
"""Help text of `--allow_code`."""


def allows_code(argv: Sequence[str]) -> bool:
    """Whether a command line contains `--allow_code`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--allow_code", nargs="?", const="true", default="false")
    return parser.parse_known_args(argv)[0].allow_code.lower() == "true"


def refuse_hidden_code(content: object, file: str, argv: Sequence[str]) -> None:
    """Refuse a YAML file that names a FILE.py:FUNCTION which is neither named nor allowed on the command line.

    Args:
        content: Content of the file.
        file: Name of the file.
        argv: The command line.

    Raises:
        UserError: The file names such a function; the message says how to run it.
    """
    if isinstance(content, dict) and "allow_code" in content:
        raise UserError(f"{file} sets allow_code, which is valid only on the command line: remove it from the file.")
    for code in _code_in(content):
        if not allows_code(argv) and not any(code in argument for argument in argv):
            raise UserError(
                f"{file} names code that is not on the command line, {code}: give {code} on the command line too, or "
                "--allow_code if you trust the file."
            )


def _code_in(content: object) -> Iterator[str]:
    if isinstance(content, str):
        if re.search(r"\.py:\w", content):
            yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _code_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _code_in(value)
