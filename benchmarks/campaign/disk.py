"""A small disk of its own: a tmpfs, which can be filled and made read-only. Mounting it needs root."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

MIB = 64
"""Of the disk."""
NOT_PERMITTED = "a disk to fill cannot be mounted here: repeat it as root (mount -t tmpfs)"


class Disk:
    """A tmpfs in a folder.

    Raises:
        PermissionError: It may not be mounted.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(folder):
            self._mount("-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs")

    def _mount(self, *options: str) -> None:
        done = subprocess.run(["mount", *options, str(self.folder)], capture_output=True, text=True)
        if done.returncode:
            raise PermissionError(f"{NOT_PERMITTED} ({done.stderr.strip()})")

    def empty(self) -> None:
        """Remove all that is on it."""
        self._mount("-o", "remount,rw")
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fill(self, room: int) -> None:
        """Leave this many bytes, to the next block, also while a command writes."""
        with open(self.folder / ".filler", "wb") as file:
            while True:
                free = os.statvfs(self.folder)
                length = free.f_bavail * free.f_frsize - room
                if length <= 0:
                    return
                with suppress(OSError):  # there is less by now
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size + length)

    def make_room(self) -> None:
        """Remove what fills it."""
        (self.folder / ".filler").unlink()

    def protect(self) -> None:
        """Make it read-only."""
        self._mount("-o", "remount,ro")

    def unmount(self) -> None:
        """Take it away."""
        subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)


def used(folder: Path) -> int:
    """Bytes of a folder's files, in blocks of 4 KiB."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else [folder]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
