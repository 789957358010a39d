"""Whether and how a run's network is compiled."""

import torch

from cardiff.config.run import RunConfig

WORTHWHILE_STEPS = 1000
"""Compiling takes minutes, which a shorter run does not win back."""
FEW_PIXELS = 16 * 64**2
"""Pixels in a forward pass up to which launching kernels takes longer than computing, so that a CUDA graph pays."""


def compile_mode(config: RunConfig, device: torch.device, total_steps: int, pass_size: int) -> str | None:
    """The `mode` of torch.compile for a run, or None for no compilation.

    `train.compile: auto` compiles long runs on CUDA, where the element-wise operations between the convolutions, a
    large part of a UNet's time, are fused. A CUDA graph ("reduce-overhead") replaces the launching of some 2,000
    kernels a step. Gradients are not accumulated in it, since it writes those of all parts to the same memory.

    Args:
        config: Configuration of the run.
        device: Where it trains.
        total_steps: Its optimizer steps.
        pass_size: Images of one process in one forward pass.
    """
    wanted = config.train.compile
    if wanted == "auto":
        if device.type != "cuda" or total_steps < WORTHWHILE_STEPS:
            return None
        few = pass_size * config.data.resolution**2 <= FEW_PIXELS
        return "reduce-overhead" if few and config.train.gradient_accumulation_steps == 1 else "default"
    if wanted == "reduce-overhead":
        return "reduce-overhead"
    return "default" if wanted else None
