"""Tensors of which each process may hold a part (FSDP2)."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all processes, or the tensor itself."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def as_sharded(tensor: torch.Tensor, sharded: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut up as the other one is."""
    if not hasattr(sharded, "full_tensor"):
        return tensor
    tensor = tensor.to(sharded.device)
    assert isinstance(sharded, DTensor)
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements)
