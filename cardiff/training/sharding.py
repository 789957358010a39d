"""Tensors that may be sharded over the processes (FSDP2)."""

from collections.abc import Iterable, Iterator

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, gathered from all processes if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Iterable[tuple[str, torch.Tensor]], keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The full tensors by name, one after another; none where `keep` is false.

    A collective operation if they are sharded: every process must exhaust it. Sharded tensors are gathered to the CPU,
    and no process has more than one of them whole on its device, since a network that needs sharding does not fit.
    """
    for name, tensor in tensors:
        full = whole(tensor.detach())
        if keep:
            yield name, full.cpu() if isinstance(tensor, DTensor) else full


def as_sharded(tensor: torch.Tensor, sharded: torch.Tensor) -> torch.Tensor:
    """A full tensor, which every process has, sharded as the other one is; nothing is sent."""
    if not isinstance(sharded, DTensor):
        return tensor
    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
