"""How much of the machine training uses.

    python benchmarks/training.py [--device cuda] [--output results.json]

Prints, each as a ratio or with its setting:
- images per second of our training step over a bare forward, backward and optimizer step, which has its own network of
  the same configuration and shares no code with ours, timed in turns so that a drift of the machine's speed cancels;
- seconds from launching the script to its first optimizer step, and the peak memory of that process;
- the rate at which the data path alone delivers batches of 64x64 images, over decoding and resizing JPEG files of
  500x375 in one process.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from timing import bare_step, our_step, paired, summary

from cardiff.config.run import parse_run
from cardiff.config.sections import DataConfig
from cardiff.data import decode_image, open_store
from cardiff.data.batches import BatchPlan, batch_loader
from cardiff.distributed import device_name
from cardiff.training.build import build

ROOT = Path(__file__).parent.parent


CASES = {
    "step_16": {"resolution": 16, "batch_size": 64},
    "step_32": {"resolution": 32, "batch_size": 64},
    "step_32_large": {"resolution": 32, "batch_size": 16, "channels": "[64,128,256]", "head": 32},
    "step_16_bf16": {"resolution": 16, "batch_size": 16, "precision": "bf16"},
}
"""The digits' UNet at two resolutions, a larger one, and one in bf16."""


def step_ratio(
    folder: Path,
    device: str,
    rounds: int,
    resolution: int,
    batch_size: int,
    channels: str | None = None,
    head: int | None = None,
    precision: str = "no",
) -> dict:
    """Our step against the bare one, which has a network of its own, on the digits' UNet or a wider one."""
    arguments = f"--config {ROOT}/configs/digits_16_conditional.yaml --output_dir {folder / 'run'}".split()
    arguments += f"--data.data_files {ROOT}/data/digits.parquet --data.resolution {resolution}".split()
    arguments += f"--data.cache_dir {folder} --train.batch_size {batch_size} --train.log_every 50".split()
    arguments += "--train.max_steps 100000 --train.checkpoint_every 0 --train.sample_every 0".split()
    arguments += f"--train.mixed_precision {precision} --train.compile false".split()
    if channels is not None:
        arguments += ["--unet.block_out_channels", channels, "--unet.attention_head_dim", str(head)]
    AcceleratorState._reset_state(reset_partial_state=True)  # of the case before, perhaps in another precision
    trainer = build(parse_run(arguments, kind="conditional", description=""))
    where = torch.device(device)
    steps = [
        our_step(trainer),
        bare_step(trainer.accelerator.unwrap_model(trainer.model), batch_size, where, precision),
    ]
    ours, bare = paired(steps, repeats=3 if device == "cpu" else 50, rounds=rounds, device=where)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    trainer.log.bar.close()
    return {
        "resolution": resolution,
        "batch_size": batch_size,
        "precision": precision,
        "parameters": parameters,
        "rounds": rounds,
        **summary(ours, bare, batch_size),
    }


def launch(folder: Path) -> dict:
    """Seconds from launch to the first optimizer step of the demo's configuration, with the store already built."""
    command = [sys.executable, str(ROOT / "train_conditional.py")]
    command += f"--config {ROOT}/configs/digits_16_conditional.yaml --output_dir {folder / 'launch'}".split()
    command += f"--data.data_files {ROOT}/data/digits.parquet --data.cache_dir {folder}".split()
    command += "--train.max_steps 1 --train.log_every 1 --train.checkpoint_every 0 --train.sample_every 0".split()
    times = []
    for run in range(4):
        log = folder / f"launch{run}" / "logs" / "metrics.jsonl"
        command[command.index("--output_dir") + 1] = str(folder / f"launch{run}")
        start = time.time()
        subprocess.run(command, check=True, capture_output=True)
        # The first step's log entry is written right after it.
        times.append(log.stat().st_mtime - start)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    # The first run builds the store.
    return {"seconds_to_first_step": round(statistics.median(times[1:]), 2), "peak_memory_mib": round(peak)}


def data_path(folder: Path, count: int = 512) -> dict:
    """Batches per second from the decoded store against decoding JPEG files."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": i % 4})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list("abcd"))})
    Dataset.from_list(rows, features=features).to_parquet(folder / "jpeg.parquet")
    config = DataConfig(
        path="parquet", data_files=str(folder / "jpeg.parquet"), resolution=64, cache_dir=str(folder / "cache")
    )
    start = time.perf_counter()
    for row in rows:
        decode_image(row["image"], config)
    decoded = count / (time.perf_counter() - start)
    store = open_store(config, conditional=True)
    plan = BatchPlan(seed=0, batch_size=128, positions=range(128))
    loader = batch_loader(store, plan, range(2000), num_workers=0, pin_memory=False)
    start = time.perf_counter()
    for _ in loader:
        pass
    delivered = 2000 * 128 / (time.perf_counter() - start)
    return {
        "batches_images_per_second": round(delivered),
        "jpeg_images_per_second": round(decoded),
        "ratio": round(delivered / decoded, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15, help="paired timings of each step (default: 15)")
    parser.add_argument("--output", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    name = device_name(torch.device(options.device), with_threads=True)
    results = {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        results["data_path"] = data_path(folder)
        results["launch"] = launch(folder)
        for name, case in CASES.items():
            results[name] = step_ratio(folder / name, options.device, options.rounds, **case)
            print(name, results[name], file=sys.stderr)
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
