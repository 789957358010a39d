"""Being asked to stop: signals, agreed on by all processes of a run."""

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch


class StopRequest:
    """Whether SIGTERM or SIGINT came, agreed on by all processes. A second SIGINT interrupts at once."""

    def __init__(self, num_processes: int):
        self.received = False
        # Agreed on the CPU, so that the device is not waited for.
        self.group: Any = torch.distributed.new_group(backend="gloo") if num_processes > 1 else None
        self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        _end_with_launcher()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def __call__(self) -> bool:
        if self.group is None:
            return self.received
        flag = torch.tensor([int(self.received)])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(flag.item())

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _end_with_launcher() -> None:
    """Have the kernel send SIGTERM when `accelerate launch` is killed.

    With one process it passes no signal on and would leave the training running unseen. Linux only.
    """
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if parent.exists() and b"accelerate" in parent.read_bytes():
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
