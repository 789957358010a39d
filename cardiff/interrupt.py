"""Stopping a command by a signal or a closed output pipe, with unfinished files removed."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
"""Signals that stop a command: from Ctrl-C, a batch system, or a closed terminal."""
CLOSED_PIPE = 13
"""The number of SIGPIPE, used for a closed output pipe."""


class Stopped(BaseException):
    """A command is stopped; raised so that everything is cleaned up on the way out.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal_name(number)}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """The exit status that a shell reports for a program ended by the signal, such as 143 for SIGTERM."""
        return 128 + self.number


def signal_name(number: int) -> str:
    """The name of a signal, such as "SIGTERM"."""
    return "a closed output" if number == CLOSED_PIPE else signal.Signals(number).name


def take_signals(handler: Callable[[int, FrameType | None], object], patience: float = 0.0) -> dict[int, Any]:
    """Install a handler for the signals and return the previous handlers.

    The first signal calls the handler; a second one kills the process. Signals that are ignored, as under nohup, stay
    ignored.

    Args:
        handler: Called for the first signal.
        patience: Seconds during which further signals count as the same request, since a launcher may forward a
            signal that its processes have also received directly.
    """
    first: list[float] = []

    def once(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            handler(number, frame)
        elif time.monotonic() - first[0] >= patience:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: known for number, known in before.items() if known not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, once)
    return before


def give_back(before: dict[int, Any]) -> None:
    """Restore the previous handlers, as returned by `take_signals`."""
    for number, handler in before.items():
        signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None = None) -> None:
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """A context in which a signal or a closed output pipe raises Stopped, so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, streams = take_signals(_stop), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (GuardedStream(s) if s is not None else s for s in streams)
    try:
        yield
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # so that a closed pipe is noticed here and not at the interpreter's exit
    finally:
        sys.stdout, sys.stderr = streams
        give_back(before)


class GuardedStream:
    """An output stream whose errors, such as a closed pipe or a full disk, do not interrupt the work."""

    lost: Callable[[int], object] = staticmethod(_stop)
    """Called when the pipe of a stream is closed, once per stream; a training run saves first."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it after an error."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop its buffer after an error."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO):
            with suppress(OSError, ValueError):  # discard all further output, also at the interpreter's exit
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            GuardedStream.lost(CLOSED_PIPE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
