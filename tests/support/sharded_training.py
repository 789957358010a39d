"""Trains with the model sharded by FSDP2 over CPU processes, which Accelerate itself offers on GPUs only.

Run by test_launch.py with the name of a training script. Accelerate's `prepare` is replaced by torch's own
fully_shard; the rest is the real trainer.
"""

import importlib
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[2]))


def prepare(self, model, optimizer):
    """Shard the network and hand the optimizer the sharded parameters, as Accelerate does for FSDP2."""
    names = [name for name, _ in model.named_parameters()]
    for block in [*model.down_blocks, *getattr(model, "up_blocks", []), model]:
        fully_shard(block, mesh=torch.distributed.init_device_mesh("cpu", (self.num_processes,)))
    sharded = dict(model.named_parameters())
    assert all(hasattr(p, "full_tensor") for p in sharded.values())
    optimizer.param_groups[0]["params"] = [sharded[name] for name in names]
    return model, self.prepare_optimizer(optimizer)


Accelerator.prepare = prepare
importlib.import_module(sys.argv.pop(1)).main()
