"""Stop requests during training: all processes end after the same step."""

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from cardiff.interrupt import GuardedStream, give_back, take_signals


class StopRequest:
    """Whether a signal arrived or stdout was closed, agreed on by all processes. A second signal kills the process."""

    def __init__(self, num_processes: int):
        self.number = 0
        """Number of the signal; 0 if there was none."""
        # Agreed on the CPU, so that the step need not wait for the device.
        self.group: Any = torch.distributed.new_group(backend="gloo") if num_processes > 1 else None
        self.before, self.lost_before = take_signals(self._receive), GuardedStream.lost
        GuardedStream.lost = self._receive
        _end_with_launcher()

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
        GuardedStream.lost = staticmethod(self.lost_before)


def _end_with_launcher() -> None:
    """Have the kernel send SIGTERM when `accelerate launch` is killed.

    With one process, the launcher forwards no signals, and training would go on in the background. Linux only.
    """
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if parent.exists() and b"accelerate" in parent.read_bytes():
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
