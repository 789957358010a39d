"""Which kernel a training run's attention takes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from diffusers import ModelMixin
from torch.nn.attention import SDPBackend, sdpa_kernel

FEW_POSITIONS = 8 * 8
"""Positions up to which plain matrix products train faster than torch's fused attention in bf16 on a CPU: 0.7 against
5.6 ms at 16, 4.4 against 12 at 64 and 44 against 36 at 256, forward and backward, with one thread and AMX."""


def attention_kernel(model: ModelMixin, precision: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """What makes the context for a forward pass in which attention takes the kernel that trains fastest.

    That is torch's choice, but for bf16 on a CPU, where the backward pass of the fused kernel is slow if the positions
    are few.

    Args:
        model: The network.
        precision: Accelerate's `mixed_precision` of the run.
        device: Where it trains.
    """
    blocks = model.config["down_block_types"]
    finest = next((i for i, block in enumerate(blocks) if block.startswith("Attn")), len(blocks) - 1)
    few = (model.config["sample_size"] >> finest) ** 2 <= FEW_POSITIONS
    if few and device.type == "cpu" and precision == "bf16":
        return partial(sdpa_kernel, SDPBackend.MATH)
    return nullcontext
