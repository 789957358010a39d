"""Which network, optimizer and objective give the best cars after a given amount of arithmetic?

    OMP_NUM_THREADS=1 python benchmarks/recipe.py --tflop 6 --output runs/recipe [--trials today,uniform] [--seeds 0,1]

Every trial trains for the same number of floating-point operations, those of the network's forward and backward passes
and of Muon's matrix products, and is then measured by 500 samples: MobileNet-FD and kernel distance to the 2,000
training pictures with their mirror images, and the share that a classifier of real renders takes for the class
asked for. A trial that the folder has is not run again. The table of all that is there is written to table.md, below
the same measures of real pictures. Run it once for each core, with different --trials and in one folder. It needs the
weights of MobileNetV2: docs/evaluation.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.config.run import RunConfig, parse_run
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.flops import forward_flops, training_flops
from cardiff.diffusion.levels import a_sigma, clean_image, trained_log_snr
from cardiff.diffusion.loss import model_range
from cardiff.diffusion.networks import build_unet
from cardiff.evaluation.features.extraction import extract
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.metrics.frechet import frechet_distance
from cardiff.evaluation.metrics.kernel import kernel_distance
from cardiff.hub.serialization import load_pipeline
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import make_solver
from cardiff.training.build import build
from cardiff.training.optimizers import orthogonalisation_flops

ROOT = Path(__file__).parent.parent
SAMPLES, STEPS = 500, 10
LOG_SNRS = (8, 5, 3, 1, -1, -3, -5, -8)
SETS = ("cars32", "cars32_test")

LAST = [False, False, True]
"""Attention at the lowest of three resolutions."""


def network(channels: list[int], attention: list[bool], layers: int = 1, shift: str = "scale_shift") -> dict:
    """Overrides of a trial with another UNet."""
    return {
        "unet.block_out_channels": channels,
        "unet.layers_per_block": layers,
        "unet.down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "unet.up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "unet.resnet_time_scale_shift": shift,
    }


TODAY = {  # that of the larger configurations, with a shorter warm-up and a UNet that two cores can train
    **network([16, 32, 64], LAST, shift="default"),
    "unet.attention_head_dim": 32,
    "unet.norm_num_groups": 8,
    "scheduler.name": "sigmoid",
    "scheduler.tau": 0.5,
    "scheduler.prediction_type": "v_prediction",
    "train.batch_size": 64,
    "train.learning_rate": 2e-4,
    "train.lr_schedule": "constant_with_warmup",
    "train.lr_warmup_steps": 50,
    "train.loss_weighting": "min_snr",
    "train.ema_decay": 0.9999,
    "train.label_dropout": 0.1,
}


def trial_config(overrides: dict, folder: Path, seed: int, budget: float) -> tuple[RunConfig, dict[str, float]]:
    """The run of a trial, as long as the budget allows, and its cost."""
    settings = {
        "train.mixed_precision": "no",
        **TODAY,
        **overrides,
        "data.data_files": str(ROOT / "data/cars32.parquet"),
        "data.resolution": 32,
        "train.seed": seed,
        "train.log_every": 100,
        "train.checkpoint_every": 0,
        "train.sample_every": 0,
        "train.trackers": [],
    }

    if settings["scheduler.name"] != "sigmoid":
        del settings["scheduler.tau"]

    def parsed(steps: int) -> RunConfig:
        given = {**settings, "train.max_steps": steps}
        argv = ["--output_dir", str(folder)]
        for key, value in given.items():
            argv += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return parse_run(argv, kind="conditional", description=__doc__)

    config = parsed(1)
    network = build_unet(config, 10)
    per_image = training_flops(network)
    per_step = per_image * config.train.batch_size + optimizer_flops(network, config)
    steps = round(budget / per_step)
    cost = {
        "steps": steps,
        "images": steps * config.train.batch_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "forward_gflop": forward_flops(network) / 1e9,
        "tflop": steps * per_step / 1e12,
    }
    return parsed(steps), cost


def optimizer_flops(network: torch.nn.Module, config: RunConfig) -> float:
    """FLOP of one optimizer step: Muon's matrix products; the rest is nothing beside the network's."""
    return orthogonalisation_flops(network) if config.train.optimizer == "muon" else 0.0


class Judge:
    """What samples are measured by."""

    def __init__(self, cache: Path) -> None:
        files = [DataConfig(data_files=str(ROOT / f"data/{name}.parquet"), resolution=32) for name in SETS]
        store, self.test = (open_store(file, conditional=True) for file in files)
        assert store.labels is not None
        self.names = store.class_names
        self.network = load_network("mobilenet", device=torch.device("cpu"))
        images = np.asarray(store.images)
        if not cache.exists():
            np.save(cache, self.features(np.concatenate([images, images[..., ::-1]])))
        self.reference = np.load(cache)  # (2N, 1280)
        labels = np.tile(np.asarray(store.labels), 2)
        self.classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(self.reference, labels)

    def real(self) -> str:
        """The same measures of real pictures, which no model can be expected to surpass."""
        images, labels = np.asarray(self.test.images), np.asarray(self.test.labels)
        some = np.random.default_rng(0).choice(len(self.reference), SAMPLES, replace=False)
        return (
            f"The {len(images)} test pictures: {self.measure(images, labels)}.\n"
            f"{SAMPLES} of the training pictures: distance {frechet_distance(self.reference[some], self.reference)}.\n"
        )

    @torch.no_grad()
    def test_loss(self, unet: torch.nn.Module, scheduler: DDPMScheduler) -> float:
        """Squared error of v̂ on the test pictures, averaged over log-SNRs from 8 to −8, with fixed noise."""
        clean, total = model_range(torch.from_numpy(np.asarray(self.test.images).copy())), 0.0
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        labels, levels = torch.as_tensor(np.asarray(self.test.labels)), trained_log_snr(scheduler)
        for log_snr in LOG_SNRS:
            t = int((levels - log_snr).abs().argmin())
            level = float(levels[t])
            a, sigma = a_sigma(level)
            noisy = a * clean + sigma * noise
            output = torch.cat([unet(x, t, c).sample for x, c in zip(noisy.split(50), labels.split(50))])
            error = clean_image(noisy, output, level, scheduler.config.prediction_type) - clean
            total += float(error.square().mean() / sigma**2)  # ‖δv‖² = ‖δx₀‖²/σ²
        return total / len(LOG_SNRS)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features float32 (N, 1280) of uint8 images (N, 3, 32, 32)."""
        return extract(self.network, images, 100)[0]

    def measure(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Distances and class accuracy of samples."""
        found = self.features(images)
        return {
            "distance": frechet_distance(found, self.reference),
            "kernel": kernel_distance(found, self.reference),
            "accuracy": float((self.classifier.predict(found) == labels).mean()),
        }


def run(name: str, overrides: dict, seed: int, budget: float, output: Path, judge: Judge) -> None:
    """Train and measure one trial, unless it is there."""
    record = output / f"{name}_{seed}.json"
    if record.exists():
        return
    started = time.monotonic()
    config, cost = trial_config(overrides, output / f"{name}_{seed}", seed, budget)
    trainer = build(config)
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    if not trainer.finish():
        raise SystemExit(f"{name} was stopped; the same command goes on with it.")
    trained = time.monotonic()
    losses = [json.loads(line) for line in (output / f"{name}_{seed}" / "logs/metrics.jsonl").read_text().splitlines()]
    pipeline = load_pipeline(output / f"{name}_{seed}")
    found = {"test_loss": judge.test_loss(pipeline.unet, pipeline.scheduler)}
    found |= sampled(pipeline, judge, output / f"{name}_{seed}.png")
    found |= {"loss": losses[-1].get("loss"), "train_s": trained - started, "measure_s": time.monotonic() - trained}
    record.write_text(json.dumps({"trial": name, "seed": seed, "overrides": overrides, **cost, **found}, indent=1))
    print(record, found, flush=True)


def sampled(pipeline, judge: Judge, grid: Path) -> dict[str, float]:
    """Measures of samples without guidance, equally many of each class."""
    labels = np.resize(np.arange(len(judge.names)), SAMPLES)
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    images, _ = draw(
        pipeline, range(SAMPLES), seed=0, labels=labels.tolist(), guidance_scale=1.0, steps=STEPS, batch_size=50
    )
    rows = images[: 10 * len(judge.names)].reshape(10, len(judge.names), *images.shape[1:]).swapaxes(0, 1)
    save_labelled_grid(rows.reshape(1, -1, *images.shape[1:]), judge.names, [""], grid)
    return judge.measure(images.transpose(0, 3, 1, 2), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--tflop", type=float, default=16.0, help="arithmetic of each training")
    parser.add_argument("--trials", default="", help="comma-separated; default: all")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    judge = Judge(options.output / "reference.npy")
    for seed in map(int, options.seeds.split(",")):
        for name in options.trials.split(",") if options.trials else TRIALS:
            run(name, TRIALS[name], seed, options.tflop * 1e12, options.output, judge)
    table = markdown([json.loads(file.read_text()) for file in sorted(options.output.glob("*.json"))])
    table = f"{judge.real()}\n{table}"
    (options.output / "table.md").write_text(table)
    print(table)


def markdown(records: list[dict]) -> str:
    """A table of the trials, the best first: means over the seeds, with the range of the distance."""
    trials: dict[str, list[dict]] = {}
    for record in records:
        trials.setdefault(record["trial"], []).append(record)
    lines = ["| trial | GFLOP per image | images | steps | test loss | distance | kernel | accuracy | seeds |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, found in sorted(trials.items(), key=lambda item: np.mean([f["distance"] for f in item[1]])):

        def mean(key: str, found: list[dict] = found) -> float:
            return float(np.mean([record[key] for record in found]))

        distances = [record["distance"] for record in found]
        spread = f" ({min(distances):.0f} to {max(distances):.0f})" if len(found) > 1 else ""
        lines.append(
            f"| {name} | {mean('forward_gflop'):.3f} | {mean('images'):,.0f} | {mean('steps'):,.0f} | "
            f"{mean('test_loss'):.4f} | {mean('distance'):.0f}{spread} | {mean('kernel'):.2f} | "
            f"{mean('accuracy'):.0%} | {len(found)} |"
        )
    return "\n".join(lines) + "\n"


def muon(learning_rate: float, batch_size: int) -> dict:
    """Overrides of a trial with Muon."""
    return {
        "train.optimizer": "muon",
        "train.learning_rate": learning_rate,
        "train.batch_size": batch_size,
        "train.lr_schedule": "cosine",
        "train.ema_decay": 0.995,
    }


def adamw(learning_rate: float, batch_size: int) -> dict:
    """Overrides of a trial with AdamW."""
    return {**muon(learning_rate, batch_size), "train.optimizer": "adamw"}


BEST = muon(4e-3, 16)
FOUR = {**BEST, **network([32, 64, 96, 128], [False, False, True, True])}
BF16 = {**FOUR, "train.mixed_precision": "bf16"}
TRIALS: dict[str, dict] = {
    "today": {},
    "adamw 1e-3 b64": adamw(1e-3, 64),
    "adamw 1e-3 b16": adamw(1e-3, 16),
    "adamw 2e-3 b16": adamw(2e-3, 16),
    "adamw 4e-3 b16": adamw(4e-3, 16),
    "adamw 8e-3 b16": adamw(8e-3, 16),
    "adamw 16e-3 b16": adamw(1.6e-2, 16),
    "muon 2e-3 b64": muon(2e-3, 64),
    "muon 4e-3 b64": muon(4e-3, 64),
    "muon 4e-3 b32": muon(4e-3, 32),
    "muon 8e-3 b32": muon(8e-3, 32),
    "muon 2e-3 b16": muon(2e-3, 16),
    "muon 4e-3 b16": BEST,
    "muon 8e-3 b16": muon(8e-3, 16),
    "epsilon": {**BEST, "scheduler.prediction_type": "epsilon"},
    "sample": {**BEST, "scheduler.prediction_type": "sample"},
    "uniform": {**BEST, "train.loss_weighting": "uniform"},
    "gamma 1": {**BEST, "train.min_snr_gamma": 1.0},
    "gamma 2": {**BEST, "train.min_snr_gamma": 2.0},
    "invariant": {**BEST, "train.loss_weighting": "schedule_invariant"},
    "cosine": {**BEST, "scheduler.name": "cosine"},
    "linear schedule": {**BEST, "scheduler.name": "linear"},
    "cosine uniform": {**BEST, "scheduler.name": "cosine", "train.loss_weighting": "uniform"},
    "wsd": {**BEST, "train.lr_schedule": "warmup_stable_decay"},
    "linear": {**BEST, "train.lr_schedule": "linear"},
    "constant": {**BEST, "train.lr_schedule": "constant_with_warmup"},
    "average 0.98": {**BEST, "train.ema_decay": 0.98},
    "average 0.999": {**BEST, "train.ema_decay": 0.999},
    "beta2 0.95": {**BEST, "train.adam_beta2": 0.95},
    "scale_shift": {**BEST, "unet.resnet_time_scale_shift": "scale_shift"},
    "head 16": {**BEST, "unet.attention_head_dim": 16},
    "attention at 16": {**BEST, **network([16, 32, 64], [False, True, True], shift="default")},
    "no attention": {**BEST, **network([16, 32, 64], [False, False, False], shift="default")},
    "32-64-128": {**BEST, **network([32, 64, 128], LAST)},
    "32-64-128 today": network([32, 64, 128], LAST, shift="default"),
    "32-64-128 two layers": {**BEST, **network([32, 64, 128], LAST, layers=2)},
    "32-64-96-128": FOUR,
    "32-64-96-128 sample": {**FOUR, "scheduler.prediction_type": "sample"},
    "32-64-96-128 bf16": BF16,
    "32-64-96-128 bf16 cosine": {**BF16, "scheduler.name": "cosine"},
    "32-64-96-128 bf16 linear schedule": {**BF16, "scheduler.name": "linear"},
    "32-64-96-128 bf16 by loss": {**BF16, "train.timestep_sampling": "loss"},
    "32-64-96-128 bf16 by information": {**BF16, "train.timestep_sampling": "information"},
    "32-64-96-128 bf16 cosine by loss": {**BF16, "scheduler.name": "cosine", "train.timestep_sampling": "loss"},
    "32-64-96-128 bf16 linear schedule by loss": {
        **{**BF16, "scheduler.name": "linear"},
        "train.timestep_sampling": "loss",
    },
    "32-64-96-128 bf16 wsd": {**BF16, "train.lr_schedule": "warmup_stable_decay"},
    "32-64-96-128 bf16 decay": {**BF16, "train.weight_decay": 0.1},
    "32-64-96-128 no attention": {**BEST, **network([32, 64, 96, 128], [False] * 4)},
    "32-64-128-128": {**BEST, **network([32, 64, 128, 128], [False, False, True, True])},
    "24-48-96 two layers": {**BEST, **network([24, 48, 96], LAST, layers=2)},
    "32-96-160": {**BEST, **network([32, 96, 160], LAST)},
    "24-72-144": {**BEST, **network([24, 72, 144], LAST)},
}

if __name__ == "__main__":
    main()
