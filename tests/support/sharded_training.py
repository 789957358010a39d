"""Trains with the model sharded by FSDP2 over CPU processes, as configs/accelerate/fsdp.yaml does on GPUs.

Run by test_launch.py with the name of a training script, by `accelerate launch --config_file …/fsdp.yaml`. Accelerate
offers FSDP on GPUs only: its state is told that the connected CPU processes are to shard the model, as it tells itself
on GPUs; all that follows, `prepare` with its wrapping policy above all, is Accelerate's own.
"""

import importlib
import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[2]))
made, prepared = AcceleratorState.__init__, Accelerator.prepare


def make(self, *args, fsdp_plugin=None, **kwargs):
    """The state of connected CPU processes, which are to shard."""
    fresh = not AcceleratorState._shared_state
    made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fresh:
        assert fsdp_plugin is not None, "configs/accelerate/fsdp.yaml asks for it"
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


def prepare(self, model, optimizer):
    """Accelerate's own, after which every weight must be sharded, and each block on its own."""
    model, optimizer = prepared(self, model, optimizer)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert sum(type(module).__name__.startswith("FSDP") for module in model.modules()) > 4
    return model, optimizer


AcceleratorState.__init__, Accelerator.prepare = make, prepare
importlib.import_module(sys.argv.pop(1)).main()
