"""Gathering the shards of tensors: one whole tensor at a time, and only where it is wanted."""

import weakref

import pytest
import torch
from torch.distributed.tensor import Shard, distribute_tensor

from cardiff.config.run import parse_run
from cardiff.training import sharding
from cardiff.training.build import build
from cardiff.training.sharding import as_sharded, gathered
from tests.support.processes import together


@pytest.fixture
def alive(monkeypatch):
    """References to the tensors that were gathered, of which those that are still held are alive."""
    made = []

    def whole(tensor):
        full = tensor.clone()
        made.append(weakref.ref(full))
        return full

    monkeypatch.setattr(sharding, "whole", whole)
    return lambda: [ref for ref in made if ref() is not None]


def test_a_process_that_does_not_write_takes_part_and_keeps_nothing(alive):
    """Its part in the gathering is needed for every tensor."""
    seen = []

    def tensors():
        for i in range(4):
            seen.append(len(alive()))
            yield str(i), torch.full((3,), float(i))

    assert dict(gathered(tensors(), keep=False)) == {}
    assert len(seen) == 4 and max(seen) <= 1


def test_the_one_that_writes_gets_all():
    tensors = {"a": torch.arange(3.0), "b": torch.tensor(7.0)}
    kept = dict(gathered(tensors.items(), keep=True))
    assert list(kept) == ["a", "b"]
    torch.testing.assert_close(kept, tensors, rtol=0, atol=0)


def test_real_shards_are_gathered_to_the_process_that_writes():
    """Unevenly: three rows over two processes."""
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(7.0)}

    def work(rank):
        mesh = torch.distributed.init_device_mesh("cpu", (2,))
        shards = {"a": distribute_tensor(tensors["a"], mesh, [Shard(0)]), "b": tensors["b"]}
        again = as_sharded(tensors["a"], shards["a"])
        assert tuple(again.to_local().shape) == ((2, 4), (1, 4))[rank]
        return {name: value.numpy() for name, value in gathered(shards.items(), keep=rank == 0)}

    first, second = together(work)
    assert second == {}
    for name in tensors:
        assert (first[name] == tensors[name].numpy()).all()


def test_only_the_main_process_fills_the_averaged_network(tmp_path, digits_options):
    """The others have no copy of it while a checkpoint is written."""
    argv = [*digits_options, "--train.max_steps", "1", "--train.batch_size", "4", "--output_dir", str(tmp_path)]
    trainer = build(parse_run(argv, kind="conditional", description=""))
    assert trainer.average_into_model(wanted=False) is None and trainer._averaged_model is None
    model = trainer.average_into_model(wanted=True)
    for average, parameter in zip(trainer.ema.shadow_params, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), average, rtol=0, atol=0)
    trainer.finish()
