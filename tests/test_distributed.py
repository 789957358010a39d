"""What the processes of a launch share, and what a device is called."""

import platform

import torch

from cardiff.distributed import TIMEOUT, device_name
from tests.support.processes import together


def test_processes_wait_longer_for_each_other_than_by_default():
    def timeout(rank):
        return torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout

    assert together(timeout) == [TIMEOUT, TIMEOUT]


def test_device_names(monkeypatch):
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    assert device_name(cpu) == "CPU"
    assert device_name(cpu, with_threads=True) == f"CPU ({platform.machine()}), {threads} threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert device_name(torch.device("cuda", 1)) == device_name(torch.device("cuda", 1), True) == "GPU number 1"
