"""How a run connects its processes and sets its device."""

import os
import socket

import pytest
import torch
from accelerate.state import AcceleratorState

from cardiff.config.run import parse_run
from cardiff.distributed import TIMEOUT, cpu_group, on_main
from cardiff.training import build as builder
from cardiff.training.build import build_accelerator
from tests.support.processes import together


@pytest.fixture
def flags():
    """The global switches of float32 products, restored."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield lambda: (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32, cudnn.allow_tf32 = before


def config(tmp_path, digits_options, *options):
    argv = [*digits_options, *options, "--output_dir", str(tmp_path)]
    return parse_run(argv, kind="conditional", description="")


@pytest.mark.parametrize("wanted", [True, False])
def test_float32_products_on_a_gpu_are_tf32_unless_switched_off(wanted, tmp_path, digits_options, flags, monkeypatch):
    class OnGpu(builder.Accelerator):
        device = torch.device("cuda")

    monkeypatch.setattr(builder, "Accelerator", OnGpu)
    build_accelerator(config(tmp_path, digits_options, "--train.allow_tf32", str(wanted)))
    assert flags() == (wanted, wanted)


def test_a_cpu_keeps_its_products(tmp_path, digits_options, flags):
    before = flags()
    build_accelerator(config(tmp_path, digits_options, "--train.allow_tf32", "true"))
    assert flags() == before


def test_processes_wait_long_and_exchange_gradients_in_place(tmp_path, digits_options):
    run = config(tmp_path, digits_options)

    def work(rank):
        # As in a training script, where nothing was connected before; the port in use may not be free at once.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(on_main(lambda: free.getsockname()[1]))
        torch.distributed.destroy_process_group()
        cpu_group.cache_clear()
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = build_accelerator(run)
        group = torch.distributed.distributed_c10d._get_default_group()
        waits = group._get_backend(torch.device("cpu")).options._timeout
        ddp = accelerator.prepare(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
        ddp(torch.ones(2, 2)).sum().backward()
        bucketed = ddp.module[0].weight.grad._is_view()
        return waits == TIMEOUT, ddp.gradient_as_bucket_view, ddp.broadcast_buffers, bucketed

    assert together(work) == [(True, True, False, True)] * 2
