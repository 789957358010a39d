"""Shared by all scripts: a command line from a documented dataclass, and one-sentence errors."""

import functools
import os
import re
import signal
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import docstring_parser
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from cardiff.config.code import refuse_hidden_code
from cardiff.config.limits import check_limits
from cardiff.config.yaml_file import read_sections
from cardiff.errors import REPORT, UserError, did_you_mean, disk_sentence, lost_process_sentence
from cardiff.interrupt import CLOSED_PIPE, Stopped, stoppable
from cardiff.layout import shipped_config, shipped_configs

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Options = TypeVar("Options")
EXTRAS = {
    "av": "video",
    "datasets": "train",
    "gradio": "app",
    "pyarrow": "train",
    "tensorboard": "train",
    "markdown": "evaluate",
    "sklearn": "evaluate",
    "torch_fidelity": "evaluate",
    "torchvision": "evaluate",
    "transformers": "evaluate",
    "torchmetrics": "analysis",
}
"""Package -> the extra in setup.cfg that installs it, for packages that loading and sampling do not need."""


def parse_options(
    options: type[Options],
    argv: Sequence[str] | None,
    description: str,
    positional: str | None = None,
    flags: Sequence[str] = (),
) -> Options:
    """Parse the flat options of a documented dataclass; `--config FILE` reads them from YAML.

    The list option named by `positional` is given without its name; those named in `flags` need no value.
    """
    parser = CommandLine(description)
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    if positional is not None:
        parser.add_argument(positional, nargs="+", type=str, help=_documented(options, positional))
    parser.add_options(options, flags, skip=[positional] if positional else [])
    argv = sys.argv[1:] if argv is None else list(argv)
    parsed = parser.parse_args(argv).as_dict()
    parsed.pop("config", None)
    given = options(**parsed)
    try:
        check_limits(given, "--")
    except ValueError as error:
        parser.error(str(error))
    return given


def one_sentence_errors(main: Callable) -> Callable:
    """Print a UserError as one sentence and exit with status 1; anything else is a bug and keeps its traceback.

    A missing optional package and a disk that is full or not writable are printed in the same way. A command that is
    stopped by a signal, or whose output pipe is closed, exits with 128 plus the signal's number, as a shell reports
    it. CARDIFF_DEBUG=1 in the environment also shows the tracebacks of user errors. `--config` also accepts the bare
    name of a shipped configuration.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> Any:
        try:
            with stoppable():
                return main(_with_shipped_configs(sys.argv[1:] if argv is None else argv))
        except Stopped as stopped:
            _end_bars()
            if stopped.number != CLOSED_PIPE:
                _say(f"{stopped}.")
            sys.exit(stopped.exit_status)
        except KeyboardInterrupt:
            sys.exit(Stopped(signal.SIGINT).exit_status)
        except Exception as error:
            _end_bars()
            sentence = _sentence(error)
            if sentence is None:
                error.add_note(REPORT)
            if _connected():
                _end_with_others(error, sentence)
            if sentence is None or os.environ.get("CARDIFF_DEBUG"):
                raise
            say_error(sentence)
            sys.exit(1)

    return wrapped


def _connected() -> bool:
    """Whether this process is one of several that are connected."""
    distributed = sys.modules.get("cardiff.distributed")
    return distributed is not None and distributed.connected()


def _end_with_others(error: Exception, sentence: str | None) -> NoReturn:
    """End one of several processes after an error, which the first that fails prints.

    At once, so that the launcher ends the others: the interpreter's own end can wait for what they do not do any more.
    """
    from cardiff.distributed import fails_first

    first = fails_first()
    if sentence is None or os.environ.get("CARDIFF_DEBUG"):
        sys.excepthook(type(error), error, error.__traceback__)
    elif first:
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1)


def _end_bars() -> None:
    """Close unfinished progress bars, so that the error is on a line of its own and comes last."""
    tqdm = sys.modules.get("tqdm.std")
    for bar in list(tqdm.tqdm._instances) if tqdm else []:
        bar.close()


def _sentence(error: Exception) -> str | None:
    """The message for the user about an error; None if it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        return extra and f"this command needs {error.name}, which is not installed: pip install 'cardiff[{extra}]'."
    return disk_sentence(error) or lost_process_sentence(error)


def _with_shipped_configs(argv: Sequence[str]) -> list[str]:
    """The command line, with bare names of shipped configurations after `--config` replaced by their files.

    Raises:
        UserError: A file of `--config` is invalid, or names code that is not on the command line.
    """
    argv = list(map(str, argv))
    found = []
    for before, argument in zip(["", *argv], argv):
        option = "--config=" if argument.startswith("--config=") else ""
        if option or before == "--config":
            file = config_file(argument.removeprefix(option))
            refuse_hidden_code(read_sections(file), file, argv)
            argument = option + file
        found.append(argument)
    return found


def config_file(config: str) -> str:
    """The file that a value of `--config` stands for; anything but a bare name is returned as it is.

    Raises:
        UserError: There is neither a file nor a shipped configuration of this name.
    """
    if not re.fullmatch(r"\w[\w.-]*", config) or Path(config).exists():
        return config
    shipped = shipped_config(config)
    if shipped is None:
        known = shipped_configs()
        remedy = did_you_mean(config.removesuffix(".yaml"), known, f"choose from {', '.join(known)}.")
        raise UserError(f"--config {config} is neither a file nor the name of a shipped configuration; {remedy}")
    return os.path.relpath(shipped) if shipped.is_relative_to(Path.cwd()) else str(shipped)


def say_error(message: str) -> None:
    """Print an error as one line to stderr, from only one process of a launch."""
    _say(f"error: {message}")


def say_note(message: str) -> None:
    """Print a note, like `say_error`."""
    _say(f"note: {message}")


def _say(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(" ".join(message.split()), file=sys.stderr, flush=True)


def _documented(options: type, name: str) -> str:
    """The docstring of a field of a dataclass or of its base classes."""
    documented = [field for base in options.__mro__[:-1] for field in docstring_parser.parse_from_object(base).params]
    return next(field.description for field in documented if field.arg_name == name)


class _Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of a script's description, since it ends with examples."""


class CommandLine(ArgumentParser):
    """An argument parser whose errors are one sentence, with the nearest valid option for a misspelt one."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_Formatter, allow_abbrev=False)

    def add_options(self, options: type, flags: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
        """Add the fields of a documented dataclass; those named in `flags` are true if given without a value."""
        for name in flags:
            default = next(field.default for field in fields(options) if field.name == name)
            self.add_argument(
                f"--{name}", type=bool, nargs="?", const=True, default=default, help=_documented(options, name)
            )
        self.add_class_arguments(options, None, skip={*flags, *skip})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence, from only one process of a launch, and exit with status 2."""
        say_error(self._one_sentence(str(message)))
        sys.exit(2)

    def _one_sentence(self, message: str) -> str:
        """jsonargparse's message without its line breaks and Python types, and with the nearest option."""
        message = " ".join(message.split())
        group = re.search(r"[Gg]roup '([\w.]+)' does not accept option '([\w.]+)'", message)
        unknown = re.search(r"unrecognized arguments: -*([\w.]+)|[Oo]ption '([\w.]+)' is not accepted", message)
        if found := group or unknown:
            key = ".".join(part for part in found.groups() if part)
            names = [action.dest for action in self._actions if action.dest not in ("help", "print_config")]
            options = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
            same_field = [option for option in options if option.rsplit(".")[-1] == key.rsplit(".")[-1]]
            last_word = [option for option in options if key.endswith(f"_{option}")]
            near = same_field or last_word
            hint = f"did you mean {near[0]!r}?" if near else did_you_mean(key, options, "see --help.")
            return f"there is no option {key!r}; {hint}"
        empty = re.search(r"argument (--[\w.]+)\S*: expected one argument", message)
        if empty:
            return f"{empty[1]} needs a value; give one that begins with a dash after an equals sign: {empty[1]}=-x."
        wrong = re.search(r'Parser key "([\w.]+)": (.*)', message)
        if wrong is None:
            return message
        key, reason = wrong.groups()
        if reason.startswith("is "):  # a sentence from cardiff.config.types
            return f"{key} {reason}"
        value = re.split(r"Given value type.*Given value: |Got value: ", reason)
        kinds = [f"one of {choices}" for choices in re.findall(r"Literal\[([^\]]*)\]", value[0])]
        kinds += ["".join(kind) for kind in re.findall(r"<class '(\w+)'>|\b(List\[\w+\])", value[0])]
        kinds = [kind.replace("NoneType", "null").replace("bool", "true or false") for kind in kinds]
        if len(value) == 1 or not kinds:
            return f"{key}: {reason}"
        return f"{key} is {value[1]!r}, but must be {' or '.join(dict.fromkeys(kinds))}."
