"""What devices compute fast: batch sizes and precisions by default, and what records say of them."""

import pytest
import torch

from cardiff.devices import DTYPES, batch_size_for, evaluation_dtype, fixed_shapes, precision_name, record_of


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
