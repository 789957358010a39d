"""What the caches of decoded images and of features share: an entry is a folder, with a lock file beside it."""

from pathlib import Path

from filelock import FileLock, Timeout

from cardiff.files import ASIDE, REMOVING, remove


def lock_of(entry: Path) -> FileLock:
    """The lock that a process holds while it builds or replaces an entry of a cache."""
    return FileLock(entry.with_name(f"{entry.name}.lock"))


def remove_unfinished(cache: Path) -> None:
    """Remove the unfinished folders of killed processes from a cache: those whose lock is free."""
    for prefix in (ASIDE, REMOVING):
        for unfinished in cache.glob(f"{prefix}*"):
            name, _, _process = unfinished.name.removeprefix(prefix).partition(".")
            try:
                with lock_of(cache / name).acquire(timeout=0):
                    remove(unfinished)
            except Timeout:
                pass  # another process is building it
