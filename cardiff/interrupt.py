"""Being stopped: by a signal, or because nobody reads the output any more. What is being written aside is removed."""

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
"""Signals that ask a command to stop: Ctrl-C, a batch system, a terminal that is closed."""
CLOSED_PIPE = 13
"""SIGPIPE, whose number stands for an output that nobody reads any more."""


class Stopped(BaseException):
    """A command was asked to stop, and has ended in good order.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal_name(number)}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell reports for a program that the signal ended, such as 143 for SIGTERM."""
        return 128 + self.number


def signal_name(number: int) -> str:
    """Such as "SIGTERM"."""
    return "a closed output" if number == CLOSED_PIPE else signal.Signals(number).name


def take_signals(handler: Callable[[int, FrameType | None], object], patience: float = 0.0) -> dict[int, Any]:
    """Have the signals handled, and return who handled them before.

    The first one calls the handler, after which a second one ends the process at once. Ignored ones stay ignored, as
    of a command under nohup.

    Args:
        handler: Called once.
        patience: Seconds in which further signals are the same request, as where a launcher passes on what its
            processes have received too.
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
    """Give the signals back to whoever had them, as `take_signals` says."""
    for number, handler in before.items():
        signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None = None) -> None:
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it a signal or a closed output raises Stopped, so that everything ends in good order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, streams = take_signals(_stop), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (GuardedStream(s) if s is not None else s for s in streams)
    try:
        yield
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # a closed pipe is noticed here and not when the interpreter ends
    finally:
        sys.stdout, sys.stderr = streams
        give_back(before)


class GuardedStream:
    """An output stream that may lose its reader, or its disk, where nobody can be told and no work is to be lost."""

    lost: Callable[[int], object] = staticmethod(_stop)
    """What is done, once a stream, when nobody reads it any more; a training run saves first."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what was not written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO):
            with suppress(OSError, ValueError):  # from now on to nowhere, also at the interpreter's end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            GuardedStream.lost(CLOSED_PIPE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
