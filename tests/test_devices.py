"""What devices compute fast: batch sizes and precisions by default, and what records say of them."""

import pytest
import torch

from cardiff.devices import (
    DTYPES,
    batch_size_for,
    evaluation_dtype,
    fixed_shapes,
    multiplies_in_bf16,
    precision_name,
    record_of,
    training_precision,
)


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(8, 512), (16, 512), (28, 256), (32, 256), (64, 64), (96, 16), (128, 16), (256, 8), (1024, 8)],
)
def test_the_batch_size_by_default_has_about_as_many_pixels_at_every_resolution(resolution, size):
    assert batch_size_for(None, resolution, torch.device("cuda")) == size
    assert batch_size_for(None, resolution, torch.device("cpu")) == 64


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_given_batch_size_is_taken(device):
    assert batch_size_for(7, 32, torch.device(device)) == 7


def test_a_record_is_silent_about_what_always_was():
    assert record_of(torch.float32, compiled=False) == {}
    assert record_of(torch.float32, compiled=True) == {"compile": True}
    assert record_of(torch.bfloat16, compiled=False) == {"precision": "bf16"}


@pytest.mark.parametrize(("device", "tried"), [("cuda", True), ("cpu", False)])
def test_algorithms_are_tried_on_gpus_alone(device, tried, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # a training run before may have set it
    with fixed_shapes(torch.device(device)):
        assert torch.backends.cudnn.benchmark is tried
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
def test_the_precision_by_default_is_what_the_hardware_multiplies_in(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    best = torch.bfloat16 if capability >= (8, 0) else torch.float32
    assert evaluation_dtype("auto", torch.device("cuda")) == best
    assert evaluation_dtype("auto", torch.device("cpu")) == torch.float32
    assert evaluation_dtype("fp16", torch.device("cuda")) == torch.float16
    assert [precision_name(evaluation_dtype(name, torch.device("cuda"))) for name in DTYPES] == list(DTYPES)


@pytest.mark.parametrize("units", [(False, False), (True, False), (False, True)])
def test_a_cpu_multiplies_in_bf16_if_it_has_units_for_it(units, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units[1])
    cpu = torch.device("cpu")
    assert multiplies_in_bf16(cpu) is any(units)
    assert training_precision("auto", cpu) == ("bf16" if any(units) else "no")
    assert evaluation_dtype("auto", cpu) == torch.float32  # whose images are promised to the bit


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_training_is_never_in_an_emulated_precision_by_itself(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert training_precision("auto", torch.device("cuda")) == ("bf16" if capability >= (8, 0) else "no")


def test_what_is_asked_for_is_taken(monkeypatch):
    cpu = torch.device("cpu")
    assert [training_precision(wanted, cpu) for wanted in ("no", "fp16", "bf16", None)] == ["no", "fp16", "bf16", None]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as accelerate launch --mixed_precision fp16 does
    assert training_precision("auto", cpu) == "fp16" and training_precision("no", cpu) == "no"
