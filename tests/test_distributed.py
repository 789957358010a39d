"""What a device is called."""

import platform

import torch

from cardiff.distributed import device_name


def test_device_names(monkeypatch):
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    assert device_name(cpu) == "CPU"
    assert device_name(cpu, with_threads=True) == f"CPU ({platform.machine()}), {threads} threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert device_name(torch.device("cuda", 1)) == device_name(torch.device("cuda", 1), True) == "GPU number 1"
