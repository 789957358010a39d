"""Files and folders that are whole whenever they exist: written aside and renamed; checksums and permissions."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ASIDE = ".writing-"
"""How the name of an unfinished file or folder begins. A killed process leaves it behind."""


@contextmanager
def written_aside(target: Path, per_process: bool = False) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it is renamed to `target` at the end, or removed after an error.

    Args:
        target: File or folder. A folder of that name is removed just before the rename, and a file is replaced.
        per_process: Processes may write the same target at the same time, each to a path of its own.

    Raises:
        OSError: The disk is full or not writable; the target is as it was.
    """
    aside = target.with_name(f"{ASIDE}{target.name}" + (f".{os.getpid()}" if per_process else ""))
    remove(aside)
    try:
        yield aside
        if aside.is_dir() and target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
    except BaseException:
        remove(aside)
        raise


def write_text(target: Path, text: str, per_process: bool = False) -> None:
    """Write a text file with `written_aside`."""
    with written_aside(target, per_process) as aside:
        aside.write_text(text)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, as far as it exists and may be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def flush(path: Path) -> None:
    """Have the operating system put a file or a folder's list of files on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def apply_folder_permissions(file: Path) -> None:
    """Let everyone who may read a file's folder read the file: safetensors writes it for the owner alone."""
    mode = file.stat().st_mode & 0o777
    wanted = mode | file.parent.stat().st_mode & 0o444
    if wanted != mode:
        with suppress(PermissionError):  # a file system without such rights
            file.chmod(wanted)
