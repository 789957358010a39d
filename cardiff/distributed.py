"""The processes of a launch, which share the work."""

import functools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from cardiff.errors import LOST_PROCESS, UserError

Result = TypeVar("Result")
TIMEOUT = timedelta(hours=6)
"""How long a process waits for the others before it gives up.

Torch's own ten minutes (thirty without GPUs) are less than what one process rightly does while the others wait: it
downloads a data set (150 GB at 10 MB/s are four hours), decodes it (ImageNet at 500 images a second: 45 minutes),
saves to a slow disk, or writes a report. A process that ends is noticed at once by the launcher, which ends the
others, so this only bounds how long a machine that hangs can keep the rest waiting.
"""
_alone = False
"""Whether this process runs a block that no other runs, in which it must not wait for the others."""


def this_process() -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes and the device.

    PartialState itself does not read ACCELERATE_USE_CPU, without which processes on CPUs are not connected.

    Raises:
        UserError: The launched processes are not connected.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=TIMEOUT)
    check_world_size(state.num_processes)
    return state


def check_world_size(num_processes: int) -> None:
    """Check that the processes are connected; otherwise each would do the whole work, in the same folder.

    Raises:
        UserError: The launcher started another number of processes than are connected.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != num_processes:
        raise UserError(
            f"{launched} processes were launched (WORLD_SIZE), but they are not connected, as happens without GPUs: "
            "launch one, or set ACCELERATE_USE_CPU=1 to use several on the CPU."
        )


def connected() -> bool:
    """Whether this process is one of several that are connected."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def fails_first() -> bool:
    """Whether no other process of the launch has said before that it fails; called once by each that does.

    An error may occur in all processes, or in any one of them: the first to call this prints it.
    """
    try:
        # The connection through which torch's processes find each other; the launcher keeps it open.
        return torch.distributed.distributed_c10d._get_default_store().add("cardiff/failed", 1) == 1
    except Exception:  # the store has ended with the process that kept it
        return this_process().is_local_main_process


def print_once(text: str) -> None:
    """Print a line from the main process only."""
    if this_process().is_main_process:
        print(text)


@functools.cache
def cpu_group() -> torch.distributed.ProcessGroup:
    """All processes, connected through gloo; the first call must be made by all of them.

    What is exchanged beside training goes through it: objects of any size do not take memory of a GPU, and a process
    that waits for hours has nothing pending on its GPU, as it would have in NCCL.
    """
    group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(group, torch.distributed.ProcessGroup), "it has all processes, this one too"
    return group


def wait_for_everyone() -> None:
    """Wait until every process is here."""
    if _several():
        torch.distributed.barrier(group=cpu_group())


def gather_dict(mine: dict) -> dict:
    """The union of all processes' dictionaries, in every process."""
    if not _several():
        return mine
    everyone: list[dict] = [{}] * this_process().num_processes
    torch.distributed.all_gather_object(everyone, mine, group=cpu_group())
    return {key: value for part in everyone for key, value in part.items()}


def gather_to_main(mine: dict) -> dict:
    """The union of all processes' dictionaries, in the main process; an empty one in the others.

    For features and images, which can be gigabytes: only one process needs the memory for all of them.
    """
    if not _several():
        return mine
    state = this_process()
    everyone: list[dict] | None = [{}] * state.num_processes if state.is_main_process else None
    torch.distributed.gather_object(mine, everyone, dst=0, group=cpu_group())
    return {key: value for part in everyone or [] for key, value in part.items()}


def on_main(work: Callable[[], Result]) -> Result:
    """What `work` returns in the main process, which alone calls it, in every process.

    Processes that branch on the result all take the same branch, even if their processors round differently.

    Raises:
        UserError: In every process, if `work` raises one. After any other error, which ends the main process, the
            others raise one that says so.
        AssertionError: `work` waits for the other processes, which do not come: found with one process, too.
    """
    several = _several()
    state = this_process()
    outcome: list = [None, None]
    if state.is_main_process:
        try:
            with _on_its_own():
                outcome[0] = work()
        except Exception as error:
            if several:
                told = str(error) if isinstance(error, UserError) else LOST_PROCESS
                with suppress(RuntimeError):  # another process has ended, too
                    torch.distributed.broadcast_object_list([None, told], src=0, group=cpu_group())
            raise
    if several:
        torch.distributed.broadcast_object_list(outcome, src=0, group=cpu_group())
        if outcome[1] is not None:
            raise UserError(outcome[1])
    return outcome[0]


@contextmanager
def one_first() -> Iterator[None]:
    """A block that one process of each machine runs first, and then the others, which find its downloads and caches.

    One of each machine, since machines may have no disk in common.
    """
    if not _several():
        with _on_its_own():
            yield
        return
    first = this_process().is_local_main_process
    if not first:
        wait_for_everyone()
    with _on_its_own():
        yield
    if first:
        wait_for_everyone()


def _several() -> bool:
    """Whether there are processes to wait for; called before each exchange between them."""
    assert not _alone, "a process would wait for others that do not run this block"
    return this_process().num_processes > 1


@contextmanager
def _on_its_own() -> Iterator[None]:
    """A block in which this process must not wait for the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def device_name(device: torch.device, with_threads: bool = False) -> str:
    """The GPU's name, or the type of device, such as "CPU".

    Args:
        device: A device of this machine.
        with_threads: For a CPU, add the architecture and torch's number of threads, which can affect the last bits.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if with_threads and device.type == "cpu":
        return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
    return device.type.upper()
