"""Atomic writing of files and folders (to a temporary path, then renamed), checksums and permissions."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ASIDE = ".writing-"
"""Prefix of unfinished files and folders. A killed process leaves them behind."""
REMOVING = ".removing-"
"""Prefix of folders that are being removed."""


@contextmanager
def written_aside(target: Path, per_process: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `target`, which is renamed to `target` at the end, or removed after an error.

    Args:
        target: File or folder. An existing folder is removed just before the rename; an existing file is replaced.
        per_process: Use a separate temporary path for each process, so that several can write the same target at once.

    Raises:
        OSError: The disk is full or not writable; the target is unchanged.
    """
    aside = target.with_name(f"{ASIDE}{target.name}" + (f".{os.getpid()}" if per_process else ""))
    remove(aside)
    try:
        with disk_errors(target):
            yield aside
            if aside.is_dir():
                _replace_folder(aside, target)
            else:
                os.replace(aside, target)
    except BaseException:
        remove(aside)
        raise


def _replace_folder(aside: Path, target: Path) -> None:
    """Rename a folder to `target`, replacing an existing one; other processes may do the same at the same time."""
    trash = target.with_name(f"{REMOVING}{target.name}.{os.getpid()}")
    placed = False
    while not placed:
        with suppress(FileNotFoundError):  # it does not exist, or another process has moved it
            os.replace(target, trash)  # so that an interrupted removal leaves no partial folder of this name
        try:
            os.replace(aside, target)
            placed = True
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    os.replace(trash, target)  # restore it
                raise
        remove(trash)  # if another process was faster, its folder is replaced in the next round


def write_text(target: Path, text: str, per_process: bool = False) -> None:
    """Write a text file with `written_aside`."""
    with written_aside(target, per_process) as aside:
        aside.write_text(text, encoding="utf-8")


def append_text(target: Path, text: str) -> None:
    """Append text to a file, all of it or none.

    Raises:
        OSError: The disk is full or not writable; the file is unchanged.
    """
    left = memoryview(text.encode())
    with disk_errors(target), open(target, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]  # a nearly full disk accepts only a part
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def write_file(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file with `written_aside` by a function for its format, creating its folder if need be."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(target, per_process=True) as aside:
        # The function may infer the format from the extension.
        named = aside.with_name(aside.name + target.suffix)
        try:
            write(named)
            os.replace(named, aside)
        except BaseException:
            remove(named)
            raise


def copy_together(sources: Iterable[Path], folder: Path, target: Path) -> None:
    """Copy files of a folder to the same places in another folder; all of them, or none if the disk is full.

    All are copied to temporary files before the first is renamed. A kill during the renames can leave a mixture of
    old and new files, which the checksums reveal.
    """
    with ExitStack() as stack:
        for source in sources:
            copy = target / source.relative_to(folder)
            with disk_errors(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, stack.enter_context(written_aside(copy)))


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Convert disk errors of any library to an OSError with the errno and the name of the file.

    Raises:
        OSError: The disk is full or not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy's, of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(target)) from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content; errors are ignored."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files and folders of killed processes, in a folder that no other process is writing to."""
    for pattern in (f"{ASIDE}*", f"{REMOVING}*"):
        for path in folder.glob(pattern):
            remove(path)


def flush(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def apply_folder_permissions(file: Path) -> None:
    """Make a file readable for everyone who can read its folder: safetensors makes it readable for its owner only."""
    mode = file.stat().st_mode & 0o777
    wanted = mode | file.parent.stat().st_mode & 0o444
    if wanted != mode:
        with suppress(PermissionError):  # a file system without permissions
            file.chmod(wanted)
