"""When a network is compiled, and how."""

from types import SimpleNamespace

import pytest
import torch

from cardiff.config.sections import TrainConfig
from cardiff.errors import UserError
from cardiff.training.compilation import WORTHWHILE_STEPS, compile_mode

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def mode(wanted="auto", device=GPU, steps=WORTHWHILE_STEPS, images=128, resolution=64, parts=1):
    train = TrainConfig(compile=wanted, gradient_accumulation_steps=parts)
    config = SimpleNamespace(train=train, data=SimpleNamespace(resolution=resolution))
    return compile_mode(config, device, steps, images)


def test_auto_compiles_long_runs_on_a_gpu():
    assert mode() == "default"
    assert mode(steps=WORTHWHILE_STEPS - 1) is None
    assert mode(device=CPU) is None


def test_auto_takes_a_graph_for_few_images():
    """As of one of eight GPUs at batch 128; smaller images may be more."""
    assert mode(images=16) == mode(images=64, resolution=32) == "reduce-overhead"
    assert mode(images=17) == mode(images=16, resolution=128) == "default"
    assert mode(images=16, parts=2) == "default"


@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_what_is_asked_for_is_done(device):
    assert mode(False, device) is None
    assert mode(True, device, steps=1, images=1) == "default"
    assert mode("reduce-overhead", device, steps=1) == "reduce-overhead"


def test_a_graph_does_not_accumulate():
    with pytest.raises(UserError, match="train.compile is reduce-overhead, whose CUDA graph cannot accumulate"):
        TrainConfig(compile="reduce-overhead", gradient_accumulation_steps=2).check(None, 1000)
    TrainConfig(compile=True, gradient_accumulation_steps=2).check(None, 1000)
