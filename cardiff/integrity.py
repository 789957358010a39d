"""What is read from a disk or the Hub is checked first: files against their checksums, JSON for its form and size.

A folder that this project writes has a checksums.json with the SHA-256 of each of its files. A flipped bit is found
when the folder is opened, whoever opens it, and never becomes another figure.
"""

import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cardiff.errors import UserError
from cardiff.files import file_hash, write_text

CHECKSUMS = "checksums.json"
"""The list of a folder's files and their SHA-256."""
VERIFIED = ".verified.json"
"""What `find_damage` notes of the files that it has read."""
LARGEST_JSON = 64 * 2**20
"""Bytes of the largest JSON file that is read; those of this project have kilobytes."""
_FILE = re.compile(r"([\w-]+/)?\w[\w-]*(\.[\w-]+)?\.(json|safetensors|py|png|npy)", re.ASCII)
"""What the listed files are called: at most one folder deep, and never a pickle."""
_verified: dict[Path, list] = {}
"""Files whose content was found to be as listed, with the state of the file and the checksum."""

Form = TypeVar("Form", dict, list)


def read_json(file: Path, infinite: bool = False) -> dict:
    """The content of a JSON file with one object, which may be anybody's; see `read_json_as`."""
    return read_json_as(dict, file, infinite)


def read_json_as(form: type[Form], file: Path, infinite: bool = False) -> Form:
    """The content of a JSON file, which may be anybody's.

    Args:
        form: What the file must hold: an object (dict) or a list.
        file: To read.
        infinite: Whether numbers may be infinite, as the end of an interval.

    Raises:
        FileNotFoundError: There is none.
        UserError: It is not JSON of this form, too large, too deeply nested, or has a number that is not finite.
    """
    if file.stat().st_size > LARGEST_JSON:
        raise UserError(f"{file} is larger than {LARGEST_JSON >> 20} MiB and not read: copy or make it again.")
    try:
        text = file.read_text(encoding="utf-8")
    except (IsADirectoryError, ValueError) as error:  # also bytes that are no text
        raise UserError(f"{file} is damaged ({error}): copy or make it again.") from error
    return parse_json(form, text, str(file), infinite)


def parse_json(form: type[Form], text: str, what: str, infinite: bool = False) -> Form:
    """JSON that may be anybody's, such as a line of a file.

    Args:
        form: What it must be: an object (dict) or a list.
        text: The JSON.
        what: Where it is from, for the message.
        infinite: Whether numbers may be infinite.

    Raises:
        UserError: It is not JSON of this form, too large, too deeply nested, or has a number that is not finite.
    """
    if len(text) > LARGEST_JSON:
        raise UserError(f"{what} is larger than {LARGEST_JSON >> 20} MiB and not read: copy or make it again.")
    try:
        constant, number = (_infinite, float) if infinite else (_refuse_constant, _finite)
        content = json.loads(text, parse_constant=constant, parse_float=number)
    except RecursionError as error:
        raise UserError(f"{what} is nested too deeply to be read: copy or make it again.") from error
    except ValueError as error:
        raise UserError(f"{what} is damaged ({error}): copy or make it again.") from error
    if not isinstance(content, form):
        kind = {dict: "an object", list: "a list"}[form]
        raise UserError(f"{what} does not hold {kind} but {type(content).__name__}: copy or make it again.")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not a number")


def _infinite(name: str) -> float:
    return _refuse_constant(name) if name == "NaN" else float(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which is not finite")
    return value


def write_checksums(folder: Path, leave_out: Iterable[str] = ()) -> list[Path]:
    """List a folder's files with their checksums in its checksums.json; return the files that are listed.

    Args:
        folder: Complete, and not changed afterwards.
        leave_out: Names of files that users may change.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): path for path in files}
    for name in (CHECKSUMS, VERIFIED, *leave_out):
        listed.pop(name, None)
    write_text(folder / CHECKSUMS, json.dumps({name: file_hash(path) for name, path in listed.items()}, indent=1))
    return list(listed.values())


def listed_files(folder: Path) -> dict[str, str]:
    """Checksums by name of the files that a folder should have.

    Raises:
        FileNotFoundError: It has no list.
        UserError: The list is damaged, or names a file that lies elsewhere or could not be of this project.
    """
    checksums: dict[str, Any] = read_json(folder / CHECKSUMS)
    for name, checksum in checksums.items():
        if not _FILE.fullmatch(name) or not isinstance(checksum, str):
            raise UserError(f"{folder / CHECKSUMS} lists {name[:100]!r}, which no folder of this project has.")
    return checksums


def find_damage(folder: Path, partial: bool = False, remember: bool = False) -> str | None:
    """What is wrong with a folder that has checksums, or None.

    Args:
        folder: To look at. Files that are not listed are not looked at.
        partial: Files may be missing, as from a folder that was downloaded in part.
        remember: Note in the folder what was found to be whole, so that large files are read once per modification and
            not by every process.
    """
    noted = _noted(folder) if remember else {}
    try:
        for name, expected in listed_files(folder).items():
            file = folder / name
            if partial and not file.exists():
                continue
            if not (remember and noted.get(name) == _state(file, expected)) and not _is_as_listed(file, expected):
                return f"{name} does not match its checksum"
        if remember:
            _note(folder, noted)
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except (OSError, UserError) as error:
        return str(error).removeprefix(f"{folder}/").rstrip(".")
    return None


def _noted(folder: Path) -> dict:
    try:
        return read_json(folder / VERIFIED)
    except (OSError, UserError):
        return {}  # none, or damaged: all is read again


def _note(folder: Path, noted: dict) -> None:
    now = {name: _state(folder / name, expected) for name, expected in listed_files(folder).items()}
    if now != noted:
        with suppress(OSError):  # a full disk, or one that is not writable: all is read again next time
            write_text(folder / VERIFIED, json.dumps(now), per_process=True)


def _state(file: Path, expected: str) -> list:
    """What changes when a file is modified, and the checksum that it should have."""
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, expected]


def _is_as_listed(file: Path, expected: str) -> bool:
    """Whether a file has this checksum; read once per process and modification."""
    state = _state(file, expected)
    if _verified.get(file) != state:
        if file_hash(file) != expected:
            return False
        _verified[file] = state
    return True


def check_model(folder: Path) -> None:
    """Refuse the folder of a model whose files are not those that were written, as far as it has checksums.

    Older folders and those of other projects have none.

    Raises:
        UserError: A file was damaged or changed, or is of another step than the others.
    """
    damage = find_damage(folder, partial=True) if (folder / CHECKSUMS).exists() else None
    if damage is not None:
        raise UserError(
            f"{folder} is damaged ({damage}): copy, download or train it again, or, if you changed the file "
            f"yourself, remove {CHECKSUMS}."
        )
