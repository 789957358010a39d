"""Checks of what is read from a disk or the Hub: files against their checksums, JSON for its type and size.

A folder written by Cardiff has a checksums.json with the SHA-256 of each of its files. They are verified whenever the
folder is opened, so a flipped bit is an error and never a different result.
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
"""File name of the list of a folder's files with their SHA-256."""
VERIFIED = ".verified.json"
"""File name of the list of files that `find_damage` has verified."""
LARGEST_JSON = 64 * 2**20
"""Maximum size of a JSON file in bytes; Cardiff's own have kilobytes."""
_FILE = re.compile(r"([\w-]+/)?\w[\w-]*(\.[\w-]+)?\.(json|safetensors|py|png|npy)", re.ASCII)
"""Valid names of listed files: at most one folder deep, and never a pickle."""
_verified: dict[Path, list] = {}
"""Files verified by this process, each with its state and checksum."""

Form = TypeVar("Form", dict, list)


def read_json(file: Path, infinite: bool = False) -> dict:
    """The content of a JSON file with one object, which may come from anyone; see `read_json_as`."""
    return read_json_as(dict, file, infinite)


def read_json_as(form: type[Form], file: Path, infinite: bool = False) -> Form:
    """The content of a JSON file, which may come from anyone.

    Args:
        form: The type that the file must contain: an object (dict) or a list.
        file: The file.
        infinite: Whether numbers may be infinite, such as the end of an interval.

    Raises:
        FileNotFoundError: The file does not exist.
        UserError: It is not JSON of this type, is too large or too deeply nested, or has a number that is not finite.
    """
    if file.stat().st_size > LARGEST_JSON:
        raise UserError(f"{file} is larger than {LARGEST_JSON >> 20} MiB and was not read: copy or create it again.")
    try:
        text = file.read_text(encoding="utf-8")
    except (IsADirectoryError, ValueError) as error:  # also bytes that are not UTF-8
        raise UserError(f"{file} is damaged ({error}): copy or create it again.") from error
    return parse_json(form, text, str(file), infinite)


def parse_json(form: type[Form], text: str, what: str, infinite: bool = False) -> Form:
    """JSON that may come from anyone, such as a line of a file.

    Args:
        form: The type that it must have: an object (dict) or a list.
        text: The JSON text.
        what: Its source, for the message.
        infinite: Whether numbers may be infinite.

    Raises:
        UserError: It is not JSON of this type, is too large or too deeply nested, or has a number that is not finite.
    """
    if len(text) > LARGEST_JSON:
        raise UserError(f"{what} is larger than {LARGEST_JSON >> 20} MiB and was not read: copy or create it again.")
    try:
        constant, number = (_infinite, float) if infinite else (_refuse_constant, _finite)
        content = json.loads(text, parse_constant=constant, parse_float=number)
    except RecursionError as error:
        raise UserError(f"{what} is nested too deeply to be read: copy or create it again.") from error
    except ValueError as error:
        raise UserError(f"{what} is damaged ({error}): copy or create it again.") from error
    if not isinstance(content, form):
        kind = {dict: "an object", list: "a list"}[form]
        raise UserError(f"{what} must contain {kind}, not {type(content).__name__}: copy or create it again.")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, which is not a finite number")


def _infinite(name: str) -> float:
    return _refuse_constant(name) if name == "NaN" else float(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it contains {text[:20]}, which is not finite")
    return value


def write_checksums(folder: Path, leave_out: Iterable[str] = ()) -> list[Path]:
    """Write a folder's checksums.json with the checksums of its files; return the files listed.

    Args:
        folder: A complete folder, which is not changed afterwards.
        leave_out: Names of files that are not listed, since users may change them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): path for path in files}
    for name in (CHECKSUMS, VERIFIED, *leave_out):
        listed.pop(name, None)
    write_text(folder / CHECKSUMS, json.dumps({name: file_hash(path) for name, path in listed.items()}, indent=1))
    return list(listed.values())


def listed_files(folder: Path) -> dict[str, str]:
    """The files that a folder should have, with their checksums.

    Raises:
        FileNotFoundError: The folder has no checksums.json.
        UserError: It is damaged, or lists a file outside the folder or one that Cardiff does not write.
    """
    checksums: dict[str, Any] = read_json(folder / CHECKSUMS)
    for name, checksum in checksums.items():
        if not _FILE.fullmatch(name) or not isinstance(checksum, str):
            raise UserError(
                f"{folder / CHECKSUMS} lists {name[:100]!r}, which Cardiff never writes: copy or create the folder "
                "again."
            )
    return checksums


def find_damage(folder: Path, partial: bool = False, remember: bool = False) -> str | None:
    """Verify a folder's checksums; returns what is wrong, or None.

    Args:
        folder: The folder. Files that are not listed in its checksums.json are ignored.
        partial: Allow missing files, as in a folder that was only partly downloaded.
        remember: Record verified files in the folder, so that large files are read once per modification and not by
            every process.
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
        return {}  # missing or damaged: verify all files again


def _note(folder: Path, noted: dict) -> None:
    now = {name: _state(folder / name, expected) for name, expected in listed_files(folder).items()}
    if now != noted:
        with suppress(OSError):  # a full or read-only disk: all files are verified again next time
            write_text(folder / VERIFIED, json.dumps(now), per_process=True)


def _state(file: Path, expected: str) -> list:
    """The metadata that change when a file is modified, and the expected checksum."""
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, expected]


def _is_as_listed(file: Path, expected: str) -> bool:
    """Whether a file has this checksum; it is read once per process and modification."""
    state = _state(file, expected)
    if _verified.get(file) != state:
        if file_hash(file) != expected:
            return False
        _verified[file] = state
    return True


def check_model(folder: Path) -> None:
    """Verify the checksums of a model's folder, if it has any; older folders and those of other projects do not.

    Raises:
        UserError: A file was damaged or changed, or belongs to another step than the others.
    """
    damage = find_damage(folder, partial=True) if (folder / CHECKSUMS).exists() else None
    if damage is not None:
        raise UserError(
            f"{folder} is damaged ({damage}): copy, download or train it again, or, if you changed the file "
            f"yourself, remove {CHECKSUMS}."
        )
