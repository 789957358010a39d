"""Work of a visitor: in a thread, with progress, and stopped when the visitor wants or leaves."""

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
LOOK = 0.2
"""Seconds between two reports of progress."""


class Cancelled(Exception):
    """The visitor has stopped the work."""


class Work:
    """Counts what is done of some work, and says when to stop.

    Args:
        total: Units of work, such as solver steps.
    """

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self._stop = threading.Event()

    def advance(self) -> None:
        """Count one unit.

        Raises:
            Cancelled: `stop` was called.
        """
        if self._stop.is_set():
            raise Cancelled
        self.done += 1

    def stop(self) -> None:
        """Let the next `advance` raise."""
        self._stop.set()


class Visitors:
    """The work of each visitor, by session and tab; a new piece of work stops the one before in its tab."""

    def __init__(self) -> None:
        self._work: dict[tuple[str | None, str], Work] = {}
        self._lock = threading.Lock()

    def start(self, session: str | None, tab: str, total: int) -> Work:
        """Work that `stop` can stop."""
        work = Work(total)
        with self._lock:
            before = self._work.get((session, tab))
            self._work[session, tab] = work
        if before is not None:
            before.stop()
        return work

    def stop(self, session: str | None, tab: str | None = None) -> None:
        """Stop the work of a visitor in a tab, or, of one who has left, in all."""
        with self._lock:
            keys = [key for key in self._work if key[0] == session and tab in (None, key[1])]
            for key in keys:
                self._work.pop(key).stop()


def progress_of(work: Work, function: Callable[[], T]) -> Generator[float, None, T]:
    """Run a function in a thread; yield the share that is done now and then, and return what it returns.

    Raises:
        Exception: What the function raises, Cancelled among it.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            found.append(function())
        except BaseException as error:  # raised again below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield min(work.done / max(work.total, 1), 1.0)
            thread.join(LOOK)
    finally:
        work.stop()  # of a visitor who has left: the generator is closed
        thread.join()
    if failed:
        raise failed[0]
    return found[0]
