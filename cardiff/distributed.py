"""The processes of a launch, which share the work."""

import os
import platform
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from cardiff.errors import UserError

TIMEOUT = timedelta(hours=6)
"""How long a process waits for the others before it gives up.

Torch's own ten minutes (thirty without GPUs) are less than what one process rightly does while the others wait: it
downloads a data set (150 GB at 10 MB/s are four hours), decodes it (ImageNet at 500 images a second: 45 minutes),
saves to a slow disk, or writes a report. A process that ends is noticed at once by the launcher, which ends the
others, so this only bounds how long a machine that hangs can keep the rest waiting.
"""


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


def print_once(text: str) -> None:
    """Print a line from the main process only."""
    if this_process().is_main_process:
        print(text)


def gather_dict(mine: dict) -> dict:
    """The union of all processes' dictionaries, in every process."""
    count = this_process().num_processes
    if count == 1:
        return mine
    everyone: list[dict] = [{}] * count
    torch.distributed.all_gather_object(everyone, mine)
    return {key: value for part in everyone for key, value in part.items()}


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
