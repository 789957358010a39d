"""Stop requests during training: all processes end after the same step."""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

from cardiff.distributed import cpu_group
from cardiff.interrupt import GuardedStream, give_back, take_signals

PATIENCE = 5.0
"""Seconds during which a second signal of a launched run counts as the first one, forwarded by the launcher."""


class StopRequest:
    """Whether a signal arrived or stdout was closed, agreed on by all processes. A second signal kills the process."""

    def __init__(self, num_processes: int):
        self.number = 0
        """Number of the signal; 0 if there was none."""
        # Agreed on the CPU, so that the step need not wait for the device.
        self.group = cpu_group() if num_processes > 1 else None
        patience = PATIENCE if "TORCHELASTIC_RUN_ID" in os.environ or _launcher() else 0.0
        self.before, self.lost_before = take_signals(self._receive, patience), GuardedStream.lost
        GuardedStream.lost = self._receive
        self.tied = _end_with_launcher(self._receive)

    def _receive(self, number: int, _frame: FrameType | None = None) -> None:
        self.number = self.number or number

    def __call__(self) -> bool:
        if self.group is not None:
            highest = torch.tensor([self.number])
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group=self.group)
            self.number = int(highest.item())
        return self.number > 0

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        give_back(self.before)
        if self.tied:
            _ask_for_signal(0)
        GuardedStream.lost = staticmethod(self.lost_before)


def _end_with_launcher(receive: Callable[[int], None]) -> bool:
    """Treat the end of `accelerate launch` as a stop request; returns whether there is such a launcher to watch.

    With one process, the launcher forwards no signals, and training would go on in the background. The kernel sends
    a signal of its own for this, so that a batch system that stops both processes does not count as two requests.
    Linux only.
    """
    if not _launcher():
        return False
    signal.signal(signal.SIGRTMIN, lambda number, frame: receive(signal.SIGTERM))
    _ask_for_signal(signal.SIGRTMIN)
    return True


def _launcher() -> bool:
    """Whether the parent process is `accelerate launch`."""
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    return parent.exists() and b"accelerate" in parent.read_bytes()


def _ask_for_signal(number: int) -> None:
    """Have the kernel send a signal when the parent process ends; 0 for none."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None).prctl(set_parent_death_signal, number)
