"""The arithmetic of networks: by hand, on the page about hardware, and in the comments of the configurations."""

import re

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import flops
from cardiff.diffusion.flops import forward_flops, training_flops
from cardiff.layout import shipped_config, shipped_configs
from tests.conftest import ROOT
from tests.support.tiny_models import tiny_unet

PAGE = (ROOT / "docs/hardware.md").read_text()
QUICK = ["digits_16_classifier", "digits_16_conditional", "stanford_cars_64_conditional"]


class Small(ModelMixin, ConfigMixin):
    """A convolution of 3 to 4 channels at 8x8, attention between its 64 pixels, and a linear layer of 4 to 5."""

    @register_to_config
    def __init__(self, in_channels=3, sample_size=8, attends=True):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, images, timesteps):
        tokens = self.convolution(images).flatten(2).transpose(1, 2)[:, None]  # (1, 1, 64, 4)
        if self.config.attends:
            tokens = scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(tokens.mean(2))


def test_a_network_counted_by_hand():
    convolution, attention, linear = 2 * (3 * 9) * 4 * 64, 2 * (2 * 64 * 64 * 4), 2 * 4 * 5
    assert forward_flops(Small()) == convolution + attention + linear
    # The gradient of the weights costs as much again, and so does that of a layer's input where one is needed.
    assert training_flops(Small(attends=False)) == 2 * convolution + 3 * linear
    assert training_flops(Small()) == 2 * convolution + 3 * linear + 3 * attention


@pytest.mark.parametrize("classes", [None, 3])
def test_the_network_itself_is_left_alone(classes):
    unet = tiny_unet(classes)
    assert 2 * forward_flops(unet) < training_flops(unet) < 3 * forward_flops(unet)
    assert all(p.device.type == "cpu" and p.grad is None for p in unet.parameters())


def rows() -> dict[str, list[str]]:
    """The cells of the page's first table, by configuration."""
    table = PAGE.partition("| configuration |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: rest for name, *rest in cells}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in shipped_configs()]
)
def test_the_page_says_what_is_counted(name):
    run = flops.arithmetic(name)
    assert flops.row(run) in PAGE.splitlines()
    if run.total >= flops.WORTH and not name.endswith("_unconditional"):
        assert [flops.row_of_hours(run, share) in PAGE.splitlines() for share in flops.SHARES] == [True, True]


def test_the_page_has_a_row_for_every_configuration():
    assert rows().keys() == set(shipped_configs())


@pytest.mark.parametrize("name", shipped_configs())
def test_configurations_say_what_is_on_the_page(name):
    text = shipped_config(name).read_text()
    said = r"^(?:unet|classifier): # (\S+) million parameters, (\S+) GFLOP per image forward and (\S+) with backward$"
    (found,) = re.findall(said, text, re.MULTILINE)
    parameters, *operations = rows()[name][:3]
    assert found[1:] == tuple(operations)
    digits = len(found[0].partition(".")[2])
    assert f"{float(parameters):.{digits}f}" == found[0]


def test_hours_are_operations_over_a_share_of_the_peak():
    run = flops.Arithmetic("a", 1, 10**9, 3 * 10**9, 10**9)
    assert run.total == 3e18
    assert run.hours("A100", 0.5) == pytest.approx(3e18 / 156e12 / 3600)
    assert flops.significant(1340.7) == "1,340" and flops.significant(0.13349) == "0.133"
    assert flops.significant(20.4, 2) == "20"


def test_counting_computes_nothing():
    """A network whose activations would take terabytes."""
    with torch.device("meta"):
        small = Small(sample_size=10**5, attends=False)
    assert forward_flops(small) == 2 * 27 * 4 * 10**10 + 40
