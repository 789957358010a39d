"""Tensors that may be sharded over the processes (FSDP2)."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, gathered from all processes if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def as_sharded(tensor: torch.Tensor, sharded: torch.Tensor) -> torch.Tensor:
    """A full tensor, sharded as the other one is."""
    if not hasattr(sharded, "full_tensor"):
        return tensor
    tensor = tensor.to(sharded.device)
    assert isinstance(sharded, DTensor)
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements)
