"""How much of the machine training uses.

    python benchmarks/training.py [--device cuda] [--output results.json]

Prints, each as a ratio or with its setting:
- images per second of our training step over the bare forward, backward and optimizer step on the same UNet and batch,
  timed in turns (ours, bare, ours, bare, …) so that a drift of the machine's speed cancels;
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
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.config.run import parse_run
from cardiff.config.sections import DataConfig
from cardiff.data import decode_image, open_store
from cardiff.data.batches import BatchPlan, batch_loader
from cardiff.distributed import device_name
from cardiff.training.build import build

ROOT = Path(__file__).parent.parent


def step_ratio(resolution: int, batch_size: int, rounds: int, folder: Path, device: str) -> dict:
    """Our step against the bare one, on the digits' UNet at this resolution."""
    arguments = f"--config {ROOT}/configs/digits_16_conditional.yaml --output_dir {folder / 'run'}".split()
    arguments += f"--data.data_files {ROOT}/data/digits.parquet --data.resolution {resolution}".split()
    arguments += f"--data.cache_dir {folder} --train.batch_size {batch_size} --train.log_every 50".split()
    arguments += "--train.max_steps 100000 --train.checkpoint_every 0 --train.sample_every 0".split()
    trainer = build(parse_run(arguments, kind="conditional", description=""))
    trainer.log.bar.disable = True
    shape = (batch_size, 1, resolution, resolution)
    unet, optimizer = trainer.model, trainer.optimizer
    noisy, target = torch.randn(shape, device=device), torch.randn(shape, device=device)
    timesteps = torch.randint(0, 1000, (batch_size,), device=device)
    labels = torch.randint(0, 11, (batch_size,), device=device)

    def bare():
        loss = torch.nn.functional.mse_loss(unet(noisy, timesteps, labels).sample, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours():
        trainer.step()
        trainer.run_callbacks()

    ratios, rates = [], []
    for _ in range(3):
        ours(), bare()
    for _ in range(rounds):
        seconds = {}
        for step in (ours, bare):
            steps = 5 if device == "cpu" else 50
            _synchronize(device)
            start = time.perf_counter()
            for _ in range(steps):
                step()
            _synchronize(device)
            seconds[step] = (time.perf_counter() - start) / steps
        ratios.append(seconds[bare] / seconds[ours])
        rates.append(batch_size / seconds[ours])
    trainer.finish()
    return {
        "resolution": resolution,
        "batch_size": batch_size,
        "rounds": rounds,
        "images_per_second": round(statistics.median(rates), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(float(q), 4) for q in np.quantile(ratios, [0.25, 0.75])],
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


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


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
        for resolution in (16, 32):
            run = step_ratio(resolution, 64, options.rounds, folder / str(resolution), options.device)
            results[f"step_{resolution}"] = run
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
