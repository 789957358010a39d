"""The processes of a launch, which share a run's work."""

import os
import platform

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from cardiff.errors import UserError


def this_process() -> PartialState:
    """This process among those that were launched together, with its device.

    Accelerate's own PartialState does not look at ACCELERATE_USE_CPU, without which processes on CPUs know nothing of
    each other.

    Raises:
        UserError: It would work alone, as each of the others.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    check_world_size(state.num_processes)
    return state


def check_world_size(num_processes: int) -> None:
    """Refuse to do in each process of a launch what all of them were to share, into the same folder.

    Raises:
        UserError: The launcher started more processes than know of each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != num_processes:
        raise UserError(
            f"{launched} processes were launched (WORLD_SIZE), but they do not find each other to share the work, as "
            "without GPUs: launch one, or set ACCELERATE_USE_CPU=1 to use several on the CPU."
        )


def print_once(text: str) -> None:
    """Print a line from one of the processes."""
    if this_process().is_main_process:
        print(text)


def gather_dict(mine: dict) -> dict:
    """The union of the processes' dictionaries, on every process."""
    count = this_process().num_processes
    if count == 1:
        return mine
    everyone: list[dict] = [{}] * count
    torch.distributed.all_gather_object(everyone, mine)
    return {key: value for part in everyone for key, value in part.items()}


def device_name(device: torch.device, with_threads: bool = False) -> str:
    """The GPU's name, or the kind of device, such as "CPU".

    Args:
        device: A device of this machine.
        with_threads: Of a CPU also the architecture and torch's threads, both of which can change the last bits.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if with_threads and device.type == "cpu":
        return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
    return device.type.upper()
