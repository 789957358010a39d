"""What train.gradient_checkpointing saves and costs: memory for the backward pass and seconds of a step.

    OMP_NUM_THREADS=1 python benchmarks/gradient_checkpointing.py --output docs/finetuning/checkpointing.md

Counted are the bytes of all tensors that autograd keeps for the backward pass of one image, each storage once, and the
UNet's own weights not; timed are forward and backward passes of one image in float32, in turn with and without, on
whatever runs this, nine of each.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.config.run import configure
from cardiff.diffusion.networks import build_unet
from cardiff.files import write_text

CONFIGS = ("cars_32_conditional", "cars_64_conditional", "stanford_cars_128_conditional")
ROUNDS = 9


def kept(unet: torch.nn.Module, images: torch.Tensor) -> int:
    """Bytes that the forward pass leaves for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no later tensor has the same place
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(images, torch.tensor([500]), torch.tensor([0]))
    return sum(found.values())


def seconds(unet: torch.nn.Module, images: torch.Tensor) -> float:
    """Of one forward and backward pass."""
    start = time.perf_counter()
    unet(images, torch.tensor([500]), torch.tensor([0])).sample.square().mean().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file of the table")
    options = parser.parse_args()
    lines = ["| configuration | kept for an image | with checkpointing | time |", "|---|---:|---:|---:|"]
    for name in CONFIGS:
        config = configure(name, "runs/never")
        unet = build_unet(config, 10).train()
        images = torch.randn(1, config.data.channels, config.data.resolution, config.data.resolution)
        size = {}
        for on in (False, True):
            unet.enable_gradient_checkpointing() if on else unet.disable_gradient_checkpointing()
            size[on] = kept(unet, images)
        ratios = []
        for _ in range(ROUNDS):
            unet.disable_gradient_checkpointing()
            plain = seconds(unet, images)
            unet.enable_gradient_checkpointing()
            ratios.append(seconds(unet, images) / plain)
        middle = statistics.median(ratios)
        mib = {on: f"{size[on] / 2**20:.1f} MiB" for on in size}
        lines.append(
            f"| `{name}` | {mib[False]} | {mib[True]} | × {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
        print(lines[-1], flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
