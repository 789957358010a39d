"""The arithmetic of a network, counted on the meta device, where tensors have shapes and nothing is computed.

A multiplication with its addition is two operations (FLOP), as in the peaks that makers of hardware state. Counted are
convolutions and matrix products, attention's included: nearly all of the arithmetic, though not of the time.
"""

import copy

import torch
from diffusers import ModelMixin
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(network: ModelMixin) -> int:
    """FLOP of a forward pass for one image, of a UNet or a classifier."""
    return _count(network, backward=False)


def training_flops(network: ModelMixin) -> int:
    """FLOP of a training step for one image: forward and backward, about three times a forward pass."""
    return _count(network, backward=True)


def _count(network: ModelMixin, backward: bool) -> int:
    network = copy.deepcopy(network).to("meta")
    config = network.config
    images = torch.empty(1, config.in_channels, config.sample_size, config.sample_size, device="meta")
    given = [images, torch.zeros(1, device="meta")]
    if config.get("num_class_embeds") is not None:
        given.append(torch.zeros(1, dtype=torch.long, device="meta"))
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = network(*given)
        if backward:
            (output if isinstance(output, torch.Tensor) else output.sample).sum().backward()
    return counter.get_total_flops()
