"""Do the schedules that are best on paper train best? Trains small models on the digits, one for each schedule, seed
and loss weighting at an equal budget, and measures them.

python benchmarks/schedule_pilot.py --output runs/pilot

It adds to what the folder has, so it can be stopped and started again, and ends with a table of all that is there.
About three minutes a model on one core.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import point_of
from cardiff.analysis.spectra import fit_gaussian, octave_arguments
from cardiff.config.run import parse_run
from cardiff.config.schedules_by_name import alphas_cumprod_of
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.levels import log_snr_of, timesteps_at, trained_log_snr, visited_levels
from cardiff.evaluation.metrics.frechet import frechet_distance
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import make_solver
from cardiff.training.build import build

ROOT = Path(__file__).parent.parent
SETS = {
    "digits": DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True),
    "cifar10": DataConfig(
        data_files=str(ROOT / "data/local/cifar10/train-*.parquet"), split="train[:5000]", resolution=16
    ),
}
"""All at 16×16 and small enough for a CPU."""
SCHEDULES = {
    "cosine": {"name": "cosine"},
    "linear": {"name": "linear"},
    "sigmoid": {"name": "sigmoid"},
    "linear_log_snr": {"name": "linear_log_snr"},
    "edm": {"name": "edm"},
    "laplace": {"name": "laplace"},
    "spectral κ=0": {"name": "spectral", "kappa": 0.0, "max_leak": 1e-3},
    "spectral κ=5": {"name": "spectral", "kappa": 5.0, "max_leak": 1e-3},
    "spectral pixels": {"name": "spectral", "kappa": 0.0, "pixel_weight": 1.0, "solver": "ddpm"},
    "octave geodesic": {"name": "octave", "max_leak": 1e-3},
}
OWN = [("ddpm", 50), ("ddpm", 10), ("dpm", 10)]  # solver and steps, evenly spaced in t
CROSS = [("ddpm", 10)]  # the same at the log-SNRs of another schedule
UNET = {
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 16,
    "norm_num_groups": 8,
}
SAMPLES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pilot"))
    parser.add_argument("--set", choices=SETS, default="digits", help="what is learned (default: digits)")
    parser.add_argument("--schedules", default=",".join(SCHEDULES))
    parser.add_argument("--weightings", default="uniform,schedule_invariant")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of batch 64 (default: 1000)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    store = open_store(SETS[options.set], conditional=True)
    images = np.asarray(store.images)  # (N, C, 16, 16)
    spectrum = octave_arguments(fit_gaussian(images))
    features = classifier_features(images, store.labels)
    results = options.output / f"results_{options.steps}.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(entry["schedule"], entry["weighting"], entry["seed"]) for entry in done}
    for seed in map(int, options.seeds.split(",")):
        for weighting in options.weightings.split(","):
            for name in options.schedules.split(","):
                if (name, weighting, seed) in done:
                    continue
                started = time.monotonic()
                folder = options.output / f"{name} {weighting} {seed} {options.steps}".replace(" ", "_")
                train(folder, SETS[options.set], section(name, spectrum), weighting, seed, options.steps)
                trained = time.monotonic()
                entry = {"schedule": name, "weighting": weighting, "seed": seed, "steps": options.steps}
                entry |= measure(folder, images, features, spectrum)
                entry |= {"train_s": trained - started, "measure_s": time.monotonic() - trained}
                options.output.mkdir(parents=True, exist_ok=True)
                with open(results, "a") as file:
                    file.write(json.dumps(entry) + "\n")
                print(entry, flush=True)
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    results.with_suffix(".md").write_text(markdown(entries, images))


def section(name: str, spectrum: dict) -> dict:
    """The `scheduler` section of one arm."""
    chosen = SCHEDULES[name]
    return {**chosen, **(spectrum if chosen["name"] in ("spectral", "octave") else {})}


def train(folder: Path, data: DataConfig, scheduler: dict, weighting: str, seed: int, steps: int) -> None:
    """Train one model; the sections of the shipped configuration with a smaller UNet."""
    settings = {f"scheduler.{key}": value for key, value in scheduler.items()}
    settings |= {f"unet.{key}": value for key, value in UNET.items()}
    settings |= {
        "output_dir": folder,
        **{f"data.{key}": getattr(data, key) for key in ("data_files", "split", "resolution", "channels", "upscale")},
        "train.max_steps": steps,
        "train.loss_weighting": weighting,
        "train.seed": seed,
        "train.ema_decay": 0.995,
        "train.log_every": 100,
        "train.checkpoint_every": 0,
        "train.sample_every": 0,
        "train.trackers": [],
    }
    argv = ["--config", str(ROOT / "configs/digits_16_unconditional.yaml")]
    for key, value in settings.items():
        argv += [f"--{key}", json.dumps(value) if isinstance(value, list | bool) else str(value)]
    trainer = build(parse_run(argv, kind="unconditional", description=__doc__))
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    trainer.finish()


def measure(folder: Path, images: np.ndarray, features, spectrum: dict) -> dict:
    """Fréchet distances of samples, and the error of x̂₀ over log-SNR."""
    pipeline = load_pipeline(folder)
    trained, data = pipeline.scheduler, (images, features)
    found = {f"{solver} {steps}": distances(pipeline, solver, steps, None, *data) for solver, steps in OWN}
    for other in ("cosine", "spectral κ=0"):
        levels = log_snr_of(alphas_cumprod_of(section(other, spectrum)))
        for solver, steps in CROSS:
            timesteps = timesteps_at(trained, visited_levels(levels, steps))
            found[f"{solver} {steps} at {other}"] = distances(pipeline, solver, steps, timesteps, *data)
    return {"distances": found, "error_over_log_snr": denoising_error(pipeline.unet, trained, images)}


def distances(pipeline, solver: str, steps: int, timesteps: list[int] | None, images: np.ndarray, features) -> dict:
    """Fréchet distances of samples to the data, on pixels and on a classifier's features.

    Args:
        solver: A name of `cardiff.sampling.solvers.SOLVERS`.
        steps: Evenly spaced sampling steps, unless timesteps are given.
    """
    trained = pipeline.scheduler
    pipeline.scheduler = make_solver(trained, solver)
    drawn, _ = draw(
        pipeline,
        range(SAMPLES),
        seed=0,
        labels=None,
        guidance_scale=1,
        steps=steps,
        timesteps=timesteps,
        batch_size=250,
    )
    drawn = drawn.transpose(0, 3, 1, 2)
    pipeline.scheduler = trained
    flat = [x.reshape(len(x), -1) / 127.5 - 1 for x in (drawn, images)]
    return {"pixel": frechet_distance(*flat), "feature": frechet_distance(features(drawn), features(images))}


@torch.no_grad()
def denoising_error(unet, scheduler, images: np.ndarray) -> dict:
    """Mean squared error of x̂₀ on 500 training images with fixed noise, at log-SNRs from 8 to −8."""
    x = torch.from_numpy(images[:500].copy()).float() / 127.5 - 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    trained, found = trained_log_snr(scheduler), {}
    for log_snr in range(8, -9, -2):
        t = int((trained - log_snr).abs().argmin())
        a, sigma = trained[t].sigmoid().sqrt().float(), (-trained[t]).sigmoid().sqrt().float()
        noisy = a * x + sigma * noise
        estimate = a * noisy - sigma * unet(noisy, t).sample  # v-prediction
        found[log_snr] = float(((estimate - x) ** 2).mean())
    return found


COLUMNS = {
    "DDPM 50": ("ddpm 50", "ddpm", 50),
    "DDPM 10": ("ddpm 10", "ddpm", 10),
    "DPM-Solver++ 10": ("dpm 10", "ddim", 10),
    "DDPM 10 at the steps of cosine": ("ddpm 10 at cosine", None, None),
}
"""Title of a column: the key of its distance, and the solver and steps whose closed form stands for it on paper."""


def markdown(entries: list[dict], images: np.ndarray) -> str:
    """A table a weighting: mean and standard deviation over seeds of the Fréchet distance on pixels (on features)."""
    model = fit_gaussian(images)
    spectrum = octave_arguments(model)
    levels = {name: log_snr_of(alphas_cumprod_of(section(name, spectrum))) for name in SCHEDULES}
    lines = []
    for weighting in sorted({entry["weighting"] for entry in entries}, reverse=True):
        chosen = [entry for entry in entries if entry["weighting"] == weighting]
        by_name = {}
        for entry in chosen:
            by_name.setdefault(entry["schedule"], []).append(entry["distances"])
        names = sorted(by_name, key=lambda name: np.mean([d["ddpm 50"]["pixel"] for d in by_name[name]]))
        seeds = sorted({len(found) for found in by_name.values()})
        lines += [f"**train.loss_weighting: {weighting}** ({seeds[0]} seeds)", ""]
        lines += [f"| schedule | A | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
        for name in names:
            cells = []
            for key, _, _ in COLUMNS.values():
                pixel, feature = ([d[key][kind] for d in by_name[name]] for kind in ("pixel", "feature"))
                cells.append(f"{np.mean(pixel):.2f} ± {np.std(pixel, ddof=1):.2f} ({np.mean(feature):.2f})")
            structure = model.spectrum.structure(levels[name]).mean()
            lines.append(f"| {name} | {structure:.3f} | {' | '.join(cells)} |")
        lines.append("")
        if len(names) < 5:
            continue  # too few to rank
        lines += ["Rank correlation over the schedules of what is computed on paper with these distances:", ""]
        paper = {title: key for title, key in COLUMNS.items() if key[1] is not None}
        lines += ["| on paper | " + " | ".join(paper) + " |", "|---" * (1 + len(paper)) + "|"]
        for title, measure in (("structure A", "structure"), ("E in pixels", "pixels"), ("E by octave", "octaves")):
            cells = []
            for key, solver, steps in paper.values():
                points = [point_of(merged(model.spectrum), levels[name], solver, steps) for name in names]
                values = [getattr(point, measure) for point in points]
                pixel, feature = (
                    spearmanr(values, [np.mean([d[key][kind] for d in by_name[name]]) for name in names]).statistic
                    for kind in ("pixel", "feature")
                )
                cells.append(f"{pixel:+.2f} ({feature:+.2f})")
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def classifier_features(images: np.ndarray, labels: np.ndarray):
    """The hidden layer of a small classifier of the images, as a function of uint8 images (N, C, H, W)."""
    from sklearn.neural_network import MLPClassifier

    def flat(x):
        return x.reshape(len(x), -1) / 255

    model = MLPClassifier((64,), max_iter=300, random_state=0).fit(flat(images), labels)
    return lambda x: np.maximum(flat(x) @ model.coefs_[0] + model.intercepts_[0], 0)


if __name__ == "__main__":
    main()
