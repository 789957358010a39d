"""Output files and folders: checked before the work starts, and locked so that one command at a time writes."""

import argparse
import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from cardiff.errors import UserError
from cardiff.files import ASIDE, remove, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows, where there are no locks: see docs/reliability.md
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Name of a folder's lock file. The file remains; the lock on it (flock) ends with the process."""
_held: dict[str, int] = {}
"""File descriptors of the locks held by this process, by the real path of the folder."""


def check_folder(option: str, folder: Path | str) -> None:
    """Check that a folder can be written, without creating it.

    Args:
        option: The option that names it, such as "--output".
        folder: The folder, which need not exist.

    Raises:
        UserError: Its name is invalid, something else is in its place, or it is not writable.
    """
    _check_name(option, folder, "a folder")
    _check_place(f"{option} {folder}", Path(folder), "folder")


def check_file(option: str, file: Path | str, endings: Sequence[str]) -> None:
    """Check that a file can be written and has one of the given extensions.

    Args:
        option: The option that names it, such as "--grid".
        file: The file; an existing one will be replaced.
        endings: Valid extensions, such as [".png"].

    Raises:
        UserError: Its name or extension is invalid, a folder is in its place, or it is not writable.
    """
    _check_name(option, file, "a file")
    file = Path(file)
    if file.suffix.lower() not in endings:
        raise UserError(f"{option} {file} must end in {' or '.join(endings)}: change the extension.")
    if file.is_dir():
        raise UserError(f"{option} {file} is a folder: give a file.")
    if file.is_symlink() and not file.exists():
        raise UserError(f"{option} {file} is a broken link: remove it.")
    if file.exists() and not os.access(file, os.W_OK):
        raise UserError(f"{option} {file} cannot be written: choose another file, or change its permissions.")
    _check_place(f"{option} {file}", file.parent, "file")


def _check_place(what: str, folder: Path, kind: str) -> None:
    """Refuse a folder that does not exist and cannot be created, or is not writable."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.exists():
        raise UserError(f"{what} cannot be written, since {existing} is a broken link: remove the link.")
    if not existing.is_dir():
        raise UserError(f"{what} cannot be written, since {existing} is a file: choose another {kind}.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{what} cannot be written: choose another {kind}, or change the permissions.")


def _check_name(option: str, path: Path | str, kind: str) -> None:
    text = str(path)
    if not text.strip():
        raise UserError(f"{option} is empty: give {kind}.")
    if "\0" in text:
        raise UserError(f"{option} has a null character in its name: choose another name.")
    # A file is first written under a name that is longer by so much.
    aside = Path(text).with_name(f"{ASIDE}{Path(text).name}.{2**22}{Path(text).suffix}") if Path(text).name else text
    try:
        for name in (text, aside):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(name)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError(
                f"{option} {text[:60]}… cannot be {kind} ({os.strerror(error.errno)}): choose another name."
            ) from error


class FolderLock:
    """An exclusive lock on a folder until it is released or the process ends, however it ends.

    Forked workers do not keep the lock. A process can lock the same folder several times; the lock is released with
    the first of them.

    Args:
        folder: The folder to lock; created if need be.

    Raises:
        UserError: Another process holds the lock.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = os.path.realpath(folder)
        self.outermost = fcntl is not None and self.path not in _held
        if self.outermost:
            _held[self.path] = _lock(folder / LOCK, folder)

    def release(self) -> None:
        """Release the lock."""
        descriptor = _held.pop(self.path, None) if self.outermost else None
        self.outermost = False
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def owned(folder: Path | str, main: bool = True) -> Iterator[None]:
    """Lock a folder while a command works on it, after removing unfinished files of killed commands.

    A folder that was created for the lock is removed again if nothing was written to it, as after an invalid option.

    Args:
        folder: The folder, which need not exist.
        main: Whether this is the main process of a launch; other processes do nothing.

    Raises:
        UserError: Another command holds the lock.
        OSError: The folder cannot be written.
    """
    if not main:
        yield
        return
    folder = Path(folder)
    made = not folder.exists()
    with FolderLock(folder):
        remove_leftovers(folder)
        try:
            yield
        finally:
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                remove(folder)


def _lock(file: Path, folder: Path) -> int:
    """Lock the file, write this process's identity to it, and return its descriptor."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by another command{owner}: wait until it has ended, or choose another folder."
        ) from error
    except OSError as error:  # a network disk without locks
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(descriptor)
            raise
    try:
        os.ftruncate(descriptor, 0)
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
    except OSError:
        pass  # a full disk: the lock works without the identity
    return descriptor


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f" (process {owner['process']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget_locks() -> None:
    """Close the locks in a forked child, which must not keep them after its parent has ended."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def folder_of_demonstration(argv: Sequence[str] | None, description: str | None, default: str) -> Iterator[Path]:
    """The --output_dir of a command that has no other option, checked and locked.

    Args:
        argv: The command line without the program's name (default: that of the process).
        description: Of the command, for --help.
        default: Folder if none is given.

    Raises:
        UserError: The folder cannot be written, or another command holds its lock.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=default, help="folder of the results (default: %(default)s)")
    folder = parser.parse_args(argv).output_dir
    check_folder("--output_dir", folder)
    with owned(folder):
        yield Path(folder)
