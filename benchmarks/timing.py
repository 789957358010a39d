"""Paired timings of a training step, ours against a bare one, shared by the benchmarks."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import ModelMixin, UNet2DModel

from cardiff.training.trainer import Trainer


def bare_step(
    model: ModelMixin,
    batch_size: int,
    device: torch.device,
    precision: str = "no",
    channels_last: bool = False,
    compile_mode: str | None = None,
) -> Callable[[], None]:
    """A training step that has nothing in common with ours but the network's configuration.

    Forward pass and mean squared error of a fixed batch, backward pass, AdamW: no drawing of noise or timesteps, no
    clipping, no weight average, nothing logged. It has its own network and optimizer.

    Args:
        model: A network of the same configuration.
        batch_size: Images in a step.
        device: Where it runs.
        precision: "no", "bf16" or "fp16" (with a gradient scaler).
        channels_last: Memory format of images and weights.
        compile_mode: `mode` of torch.compile; None for none.
    """
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = type(model).from_config(model.config).to(device, memory_format=form).train()
    if compile_mode is not None:
        model.compile(mode=compile_mode, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    shape = (batch_size, model.config.in_channels, *[model.config.sample_size] * 2)
    noisy = torch.randn(shape, device=device).contiguous(memory_format=form)
    target, timesteps = torch.randn(shape, device=device), torch.randint(0, 1000, (batch_size,), device=device)
    arguments: list[torch.Tensor] = [noisy, timesteps]
    if isinstance(model, UNet2DModel) and model.config.num_class_embeds is not None:
        arguments.append(torch.randint(0, model.config.num_class_embeds, (batch_size,), device=device))

    def step() -> None:
        if compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, dtype, enabled=precision != "no"):
            prediction = model(*arguments).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def our_step(trainer: Trainer) -> Callable[[], None]:
    """The step of a run, with everything that the loop of the training scripts does in it."""
    trainer.log.bar.disable = True
    trainer.stop_requested.restore()  # a signal ends the benchmark, not just the run

    def step() -> None:
        trainer.step()
        trainer.run_callbacks()

    return step


def paired(
    steps: Sequence[Callable[[], None]], repeats: int, rounds: int, device: torch.device, warm_up: int = 3
) -> list[list[float]]:
    """Seconds of each of several steps in each round, timed in turns so that a drift of the machine's speed cancels.

    Args:
        steps: What is timed.
        repeats: Calls in one timing.
        rounds: Timings of each.
        device: Waited for at the beginning and the end of a timing.
        warm_up: Calls of each before the first timing.
    """
    for step in steps:
        for _ in range(warm_up):
            step()
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(rounds):
        order = range(len(steps)) if turn % 2 == 0 else reversed(range(len(steps)))
        for index in order:
            _wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                steps[index]()
            _wait(device)
            seconds[index].append((time.perf_counter() - start) / repeats)
    return seconds


def summary(ours: Sequence[float], bare: Sequence[float], batch_size: int) -> dict:
    """Images per second of our step, and the ratio to the bare one: median and quartiles over the rounds."""
    ratios = [theirs / mine for mine, theirs in zip(ours, bare, strict=True)]
    return {
        "images_per_second": round(batch_size / statistics.median(ours), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(float(q), 4) for q in np.quantile(ratios, [0.25, 0.75])],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
