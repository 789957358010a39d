"""How much of the device drawing images uses.

    python benchmarks/sampling.py [--device cuda] [--precision bf16] [--compile] [--solver ddpm] [--output FILE]

Prints the images per second of drawing with labels and without guidance, and their ratio to those of the bare loop, in
which the same network is called as often on a batch that lies on the device, and nothing else is done. Both are timed
in turns, so that a drift of the machine's speed cancels.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.devices import batch_size_for, evaluation_dtype, fixed_shapes, float32_products, precision_name
from cardiff.distributed import device_name
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler

WIDTHS = {"tiny": (32, 64, 64), "full": (128, 256, 256, 256)}
"""Channels of each resolution: of the network for the digits, and of that for CIFAR-10."""


def make_pipeline(options: argparse.Namespace, dtype: torch.dtype) -> ClassConditionalPipeline:
    """A network of random weights for ten classes, on the device, with the solver."""
    torch.manual_seed(0)
    channels = WIDTHS[options.width]
    plain = len(channels) - 2
    unet = UNet2DModel(
        sample_size=options.resolution,
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        layers_per_block=1 if options.width == "tiny" else 2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * plain),
        up_block_types=(*["UpBlock2D"] * plain, "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None if options.width == "full" else 16,
        norm_num_groups=8,
        num_class_embeds=11,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)  # so that images of every precision are finite
    unet = torch.nn.Module.to(unet.eval(), options.device, dtype)
    if options.compile:
        unet.compile()
    trained = CosineScheduler(prediction_type="v_prediction").to_stock()
    return ClassConditionalPipeline(unet, make_solver(trained, options.solver))


def measure(options: argparse.Namespace) -> dict:
    """Seconds of both loops in turns, as images per second and as their ratio."""
    device = torch.device(options.device)
    dtype = evaluation_dtype(options.precision, device)
    size = batch_size_for(options.batch_size, options.resolution, device)
    pipeline = make_pipeline(options, dtype)
    labels = [i % 10 for i in range(size)]
    pipeline.set_timesteps(options.steps)
    timesteps = pipeline.scheduler.timesteps.to(device)
    x = torch.randn(size, 3, options.resolution, options.resolution, device=device, dtype=dtype)
    ids = torch.tensor(labels, device=device)

    @torch.no_grad()
    def bare() -> None:
        with float32_products(tf32=False), fixed_shapes(device):
            for t in timesteps:
                pipeline.unet(x, t, ids)

    def ours() -> None:
        how = {"guidance_scale": 1.0, "steps": options.steps, "batch_size": size}
        draw(pipeline, range(size), seed=0, labels=labels, **how)

    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    start = time.perf_counter()
    bare()
    _synchronize(device)
    first = time.perf_counter() - start  # with compilation
    ours()
    for _ in range(options.rounds):
        for name, loop in (("ours", ours), ("bare", bare)):
            _synchronize(device)
            start = time.perf_counter()
            loop()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    ratios = [fast / slow for fast, slow in zip(seconds["bare"], seconds["ours"])]
    return {
        "device": device_name(device, with_threads=True),
        "torch": torch.__version__,
        "precision": precision_name(dtype),
        "compile": options.compile,
        "solver": options.solver,
        "steps": options.steps,
        "width": options.width,
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()),
        "resolution": options.resolution,
        "batch_size": size,
        "rounds": options.rounds,
        "seconds_of_first_batch": round(first, 2),
        "images_per_second": round(size / statistics.median(seconds["ours"]), 1),
        "bare_images_per_second": round(size / statistics.median(seconds["bare"]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(float(q), 4) for q in np.quantile(ratios, [0.25, 0.75])],
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bf16", "fp16"])
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--batch_size", type=int, help="images at once (default: as sample.py chooses it)")
    parser.add_argument("--solver", default="dpm", choices=SOLVERS)
    parser.add_argument("--steps", type=int, default=25, help="solver steps (default: 25)")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--width", choices=WIDTHS, help="size of the network (default: full on a GPU, else tiny)")
    parser.add_argument("--rounds", type=int, default=7, help="paired timings (default: 7)")
    parser.add_argument("--output", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    options.width = options.width or ("full" if options.device == "cuda" else "tiny")
    text = json.dumps(measure(options), indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
