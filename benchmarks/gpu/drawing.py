"""Part c: images per second of sampling, by precision, compilation, batch and solver (benchmarks/sampling.py)."""

from argparse import Namespace
from functools import partial
from typing import Any

import torch

from benchmarks import sampling
from benchmarks.gpu.world import Entry, World


def entries(world: World) -> list[Entry]:
    """What a user would choose first, then each option against it."""
    found: list[Entry] = []

    def add(precision: str, *, compiled: bool = False, batch: int = 256, solver: str = "dpm", size: int = 32) -> None:
        title = f"{size}x{size}: {solver}, {precision}, {'compiled' if compiled else 'eager'}, {batch} images"
        run = partial(rate, world, precision, compiled, batch, solver, size)
        dry = len(found) < 3 or solver == "ddpm"
        found.append(Entry(title, run, needs_cuda=precision == "fp16", dry=dry, limit=300))

    add("bf16")
    add("bf16", compiled=True)
    for precision in ("float32", "fp16"):
        add(precision)
    add("bf16", solver="ddpm")
    add("bf16", size=64)
    for batch in (64, 1024):
        add("bf16", batch=batch)
    add("bf16", compiled=True, batch=64)
    add("bf16", compiled=True, size=64)
    for solver in ("ddim", "unipc", "euler"):
        add("bf16", solver=solver)
    return found


def rate(world: World, precision: str, compiled: bool, batch: int, solver: str, size: int) -> dict[str, Any]:
    """Images per second of drawing and of the bare loop over the network."""
    torch._dynamo.reset()
    if world.cuda:
        torch.cuda.reset_peak_memory_stats()
    dry = world.options.dry_run
    found = sampling.measure(
        Namespace(
            device=world.device.type,
            precision=precision,
            compile=compiled,
            batch_size=2 if dry else batch,
            solver=solver,
            steps=2 if dry else 25,
            resolution=16 if dry else size,
            width="tiny" if dry else "full",
            rounds=1 if dry else 5,
        )
    )
    del found["device"], found["torch"]  # they are those of the record
    return found
