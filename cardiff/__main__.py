"""The `cardiff` command: each script at the top of a checkout is a subcommand.

cardiff train-conditional --config digits_16_conditional --output_dir runs/digits
accelerate launch -m cardiff train-conditional --config digits_16_conditional --output_dir runs/digits
"""

import ast
import importlib
import re
import sys
from collections.abc import Sequence

from cardiff.cli import say_error
from cardiff.errors import did_you_mean
from cardiff.layout import TOP
from cardiff.version import cardiff_version

COMMANDS = (
    "train-conditional",
    "train-unconditional",
    "train-classifier",
    "sample",
    "evaluate",
    "compare",
    "average",
    "publish",
    "analyze-schedules",
    "app",
    "demo",
    "demo-digits",
)
"""The subcommands: the names of the scripts, with dashes for underscores."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand named first on the command line; the others are not imported.

    Args:
        argv: The command line without the program's name (default: that of the process).
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"cardiff {cardiff_version()}")
    elif name in COMMANDS:
        sys.argv = [f"cardiff {name}", *rest]  # the program's name in the subcommand's help
        importlib.import_module(f"cardiff.scripts.{_script(name)}").main(rest)
    else:
        dashed = name.removesuffix(".py").replace("_", "-")
        remedy = did_you_mean(dashed, COMMANDS, f"choose from {', '.join(COMMANDS)}.")
        say_error(f"there is no command {name!r}; {remedy}")
        sys.exit(2)


def _script(command: str) -> str:
    return command.replace("-", "_")


def _help() -> str:
    """The subcommands with the first sentence of their scripts' docstrings, which are parsed without an import."""
    lines = ["usage: cardiff COMMAND [options]", "       cardiff COMMAND --help", "       cardiff --version", ""]
    for command in COMMANDS:
        text = ast.get_docstring(ast.parse((TOP / f"{_script(command)}.py").read_text(encoding="utf-8")))
        summary = " ".join((text or "").partition("\n\n")[0].split())
        lines.append(f"  {command:<20} {re.split(r'[:,] ', summary)[0].rstrip('.')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
