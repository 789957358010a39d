"""Our training step and a bare one, timed in turns."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def bare_step(
    model: torch.nn.Module, images: tuple[int, ...], classes: int, device: torch.device, precision: str = "no"
) -> Callable[[], None]:
    """Forward, backward and optimizer step of a network that nothing has prepared, on one batch of noise.

    Args:
        model: A conditional UNet of its own; compiled and in the memory format that is to be timed.
        images: Shape of a batch, (B, C, H, W).
        classes: Number of class embeddings.
        device: Where it runs.
        precision: "no", "bf16" or "fp16": that of the forward pass.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    noisy, target = torch.randn(images, device=device), torch.randn(images, device=device)
    timesteps = torch.randint(0, 1000, images[:1], device=device)
    labels = torch.randint(0, classes, images[:1], device=device)

    def step() -> None:
        with torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext():
            output = model(noisy, timesteps, labels).sample
        torch.nn.functional.mse_loss(output.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def paired(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int, steps: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a step of each, in turns, so that a drift of the machine's speed cancels in their ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        for name, step in (("ours", ours), ("bare", bare)):
            seconds[name].append(timed(step, steps, device))
    return seconds


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of a step, as the mean of several."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / steps


def summary(seconds: dict[str, list[float]], batch_size: int) -> dict[str, Any]:
    """Images per second of both, and the median and quartiles of ours over bare."""
    ratios = [bare / ours for ours, bare in zip(seconds["ours"], seconds["bare"])]
    return {
        "images_per_second": round(batch_size / statistics.median(seconds["ours"]), 1),
        "bare_images_per_second": round(batch_size / statistics.median(seconds["bare"]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(float(q), 4) for q in np.quantile(ratios, [0.25, 0.75])],
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
