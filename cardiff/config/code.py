"""Code that a YAML file names runs only if whoever gives the command can see it there, or says that the file may."""

import argparse
import re
from collections.abc import Iterator, Sequence

from cardiff.errors import UserError

ALLOW_CODE = "Run functions that a YAML file names as FILE.py:FUNCTION, though the command line does not show them."
"""What `--allow_code` does."""


def allows_code(argv: Sequence[str]) -> bool:
    """Whether a command line says `--allow_code`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--allow_code", nargs="?", const="true", default="false")
    return parser.parse_known_args(argv)[0].allow_code.lower() == "true"


def refuse_hidden_code(content: object, file: str, argv: Sequence[str]) -> None:
    """Refuse a YAML file that names a FILE.py:FUNCTION which is not on the command line, nor allowed there.

    Args:
        content: Of the file.
        file: Its name.
        argv: The command line.

    Raises:
        UserError: With the function, and how to run it.
    """
    if isinstance(content, dict) and "allow_code" in content:
        raise UserError(f"{file} has the option allow_code, which only the command line can give: remove it there.")
    for code in _code_in(content):
        if not allows_code(argv) and not any(code in argument for argument in argv):
            raise UserError(
                f"{file} names {code}, and this command would run that code without showing it: give {code} on the "
                "command line too, or --allow_code if you trust the file."
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
