"""The kernel that attention takes while a network trains."""

import pytest
import torch
from torch import nn

from cardiff.training.attention import attention_kernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Network(nn.Module):
    """What `attention_kernel` reads of a network."""

    def __init__(self, sample_size: int, blocks: str):
        super().__init__()
        types = {"-": "DownBlock2D", "A": "AttnDownBlock2D"}
        self.config = {"sample_size": sample_size, "down_block_types": [types[block] for block in blocks]}


def fused_allowed(*arguments) -> bool:
    with attention_kernel(*arguments)():
        return torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(
    ("sample_size", "blocks", "fused"),
    [
        (32, "--AA", False),  # 8x8
        (32, "-AAA", True),  # 16x16
        (16, "-A", False),  # 8x8
        (64, "---A", False),  # 8x8
        (64, "---", True),  # none but that of the middle block, at 16x16
        (32, "---", False),  # none but that of the middle block, at 8x8
    ],
)
def test_plain_products_where_the_positions_are_few(sample_size, blocks, fused):
    assert fused_allowed(Network(sample_size, blocks), "bf16", CPU) is fused


def test_everything_else_keeps_the_choice_of_torch():
    network = Network(32, "--AA")
    assert fused_allowed(network, "no", CPU)
    assert fused_allowed(network, "fp16", CPU)
    assert fused_allowed(network, "bf16", CUDA)


def test_the_context_is_made_anew_for_each_step_and_leaves_nothing_behind():
    kernel = attention_kernel(Network(32, "--AA"), "bf16", CPU)
    for _ in range(2):
        with kernel():
            assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
