"""Trains with the model sharded by FSDP2 over CPU processes, which Accelerate itself offers on GPUs only.

Run by test_launch.py. Accelerate's `prepare` is replaced by torch's own fully_shard; the rest is the real trainer.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_conditional


def prepare(self, unet, optimizer):
    """Shard the UNet and hand the optimizer the sharded parameters, as Accelerate does for FSDP2."""
    names = [name for name, _ in unet.named_parameters()]
    for block in [*unet.down_blocks, *unet.up_blocks, unet]:
        fully_shard(block, mesh=torch.distributed.init_device_mesh("cpu", (self.num_processes,)))
    sharded = dict(unet.named_parameters())
    assert all(hasattr(p, "full_tensor") for p in sharded.values())
    optimizer.param_groups[0]["params"] = [sharded[name] for name in names]
    return unet, self.prepare_optimizer(optimizer)


Accelerator.prepare = prepare
train_conditional.main()
