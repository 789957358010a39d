"""Draws the figures of docs/reverse_process.md with the model of cars that ships.

    OMP_NUM_THREADS=1 python benchmarks/reverse_process.py --output docs/reverse_process

Three minutes on one core. The loop is the pipeline's own: a callback looks at every step.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.spectra import fit_gaussian, to_float
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.levels import a_sigma, clean_image, trained_log_snr
from cardiff.files import write_text
from cardiff.hub.serialization import load_pipeline
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.plotting import BLUE, GREEN, ORANGE, new_figure, save_figure
from cardiff.sampling.solvers import make_solver

ROOT = Path(__file__).parent.parent
CLASSES = ("fire truck", "beetle", "formula car", "double-decker")
STEPS = 50
FEW = 10
"""Steps where one of them is taken apart: long enough to see what it does."""
LOG_SNRS = np.arange(-10.0, 11.0, 2.0)


@dataclass
class Step:
    """One DDPM step from timestep t to s; images (B, C, H, W)."""

    before: torch.Tensor
    clean: torch.Tensor
    """x̂₀, clipped."""
    of_clean: float
    """Coefficient of x̂₀ in the mean."""
    of_noisy: float
    """Coefficient of x_t in it."""
    deviation: float
    """√Σ of the noise that is added."""
    after: torch.Tensor
    log_snr: float

    @property
    def mean(self) -> torch.Tensor:
        """The posterior mean."""
        return self.of_clean * self.clean + self.of_noisy * self.before


class Watcher:
    """Takes every step of the loop apart, from what the callback is given."""

    def __init__(self, start: torch.Tensor, without_noise: bool = False) -> None:
        """From this x_T; without noise, every step ends at its mean."""
        self.before, self.without_noise = start, without_noise
        self.steps: list[Step] = []

    def __call__(self, pipeline: ClassConditionalPipeline, i: int, t: int, tensors: dict) -> dict:
        """Record a step; without noise, go on from its mean."""
        timesteps = pipeline.scheduler.timesteps.tolist()
        bars = pipeline.scheduler.alphas_cumprod.double()
        bar = float(bars[int(timesteps[i])])
        following = float(bars[int(timesteps[i + 1])]) if i + 1 < len(timesteps) else 1.0
        alpha = bar / following
        log_snr = float(np.log(bar / (1 - bar)))
        clean = clean_image(self.before, tensors["model_output"], log_snr, pipeline.scheduler.config.prediction_type)
        step = Step(
            before=self.before,
            clean=clean.clamp(-1, 1),
            of_clean=following**0.5 * (1 - alpha) / (1 - bar),
            of_noisy=alpha**0.5 * (1 - following) / (1 - bar),
            deviation=((1 - following) / (1 - bar) * (1 - alpha)) ** 0.5,
            after=tensors["latents"],
            log_snr=log_snr,
        )
        self.steps.append(step)
        self.before = step.mean if self.without_noise else step.after
        return {"latents": self.before}


def watched(pipeline: ClassConditionalPipeline, solver: str, steps: int, seed: int, **options: bool) -> list[Step]:
    """The steps of drawing one car of each of CLASSES."""
    pipeline.scheduler = make_solver(pipeline.scheduler, solver)
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(len(CLASSES), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    watcher = Watcher(start, **options)
    pipeline(
        class_labels=list(CLASSES),
        guidance_scale=1.0,
        num_inference_steps=steps,
        latents=start,
        generator=[torch.Generator().manual_seed(seed + 1 + i) for i in range(len(CLASSES))],
        callback_on_step_end=watcher,
        callback_on_step_end_tensor_inputs=("latents", "model_output"),
    )
    return watcher.steps


def panel(axis, image: torch.Tensor, title: str = "") -> None:
    """Show an image (C, H, W) of [-1, 1], clipped."""
    axis.imshow((image.numpy().transpose(1, 2, 0) / 2 + 0.5).clip(0, 1), interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def draw_trajectory(steps: list[Step], path: Path) -> None:
    """x_t, and below it x̂₀, along the way from noise to two cars."""
    chosen = [0, 8, 16, 22, 27, 32, 37, 43, 49]
    figure = new_figure(11, 5.1)
    axes = figure.subplots(4, len(chosen))
    for pair, car in enumerate((0, 2)):
        for column, i in enumerate(chosen):
            title = f"λ = {steps[i].log_snr:.1f}" if pair == 0 else ""
            panel(axes[2 * pair][column], steps[i].before[car], title)
            panel(axes[2 * pair + 1][column], steps[i].clean[car])
        axes[2 * pair][0].set_ylabel("$x_t$")
        axes[2 * pair + 1][0].set_ylabel(r"$\hat x_0$")
    save_figure(figure, path, dpi=110)


def draw_steps(steps: list[Step], path: Path) -> None:
    """Three steps taken apart: from noise, in the middle, and nearly clean."""
    figure = new_figure(9, 5.4)
    axes = figure.subplots(3, 5)
    for row, i in zip(axes, (1, 4, 7)):
        step, car = steps[i], 1
        noise = (step.after - step.mean)[car]
        panel(row[0], step.before[car], f"$x_t$, λ = {step.log_snr:.1f}")
        panel(row[1], step.clean[car], r"$\hat x_0$")
        panel(row[2], step.mean[car], rf"mean: {step.of_clean:.2f} $\hat x_0$ + {step.of_noisy:.2f} $x_t$")
        panel(row[3], noise, f"+ noise of deviation {step.deviation:.2f}")
        panel(row[4], step.after[car], "$x_s$, where the next step begins")
    save_figure(figure, path, dpi=110)


def draw_terms(columns: dict[str, torch.Tensor], path: Path) -> None:
    """The same start with parts of the step left out."""
    figure = new_figure(1.55 * len(columns), 1.5 * len(CLASSES) + 0.3)
    axes = figure.subplots(len(CLASSES), len(columns))
    for column, (title, images) in enumerate(columns.items()):
        for car, name in enumerate(CLASSES):
            panel(axes[car][column], images[car], title if car == 0 else "")
            if column == 0:
                axes[car][column].set_ylabel(name, fontsize=8)
    save_figure(figure, path, dpi=110)


@torch.no_grad()
def draw_loss(pipeline: ClassConditionalPipeline, images: int, path: Path) -> None:
    """The squared error of x̂₀ on test views by log-SNR, with label and without, and of the best linear estimate."""
    train, test = (
        open_store(DataConfig(data_files=str(ROOT / f"data/{name}.parquet"), resolution=32), conditional=True)
        for name in ("cars32", "cars32_test")
    )
    gaussian = fit_gaussian(np.asarray(train.images))
    some = np.random.default_rng(0).choice(len(test.images), images, replace=False)
    clean = torch.from_numpy(to_float(np.asarray(test.images)[some])).float()
    labels = torch.from_numpy(np.asarray(test.labels)[some].astype(np.int64))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    levels = trained_log_snr(pipeline.scheduler)
    errors: dict[str, list[float]] = {"best linear estimate": [], "null class": [], "label": []}
    seen = []
    for log_snr in LOG_SNRS:
        t = int((levels - log_snr).abs().argmin())
        seen.append(float(levels[t]))
        a, sigma = a_sigma(seen[-1])
        noisy = a * clean + sigma * noise
        linear = gaussian.wiener_estimate(noisy.double().numpy(), seen[-1])
        estimates = {"best linear estimate": torch.from_numpy(linear).float()}
        for name, ids in (("label", labels), ("null class", torch.full_like(labels, pipeline.null_class))):
            output = torch.cat([pipeline.unet(x, t, c).sample for x, c in zip(noisy.split(50), ids.split(50))])
            estimates[name] = clean_image(noisy, output, seen[-1], pipeline.scheduler.config.prediction_type)
        for name, estimate in estimates.items():
            errors[name].append(float((estimate - clean).square().mean()))
    figure = new_figure(6.5, 3.6)
    axis = figure.subplots()
    for (name, values), colour, style in zip(errors.items(), (GREEN, ORANGE, BLUE), (":", "--", "-")):
        axis.plot(seen, values, style, color=colour, label=name, marker="o", ms=3)
    axis.set_yscale("log")
    axis.set_xlabel("log-SNR λ: noise on the left, image on the right")
    axis.set_ylabel(r"mean squared error of $\hat x_0$")
    axis.legend(frameon=False)
    save_figure(figure, path, dpi=110)
    write_text(path.with_suffix(".json"), json.dumps({"log_snr": seen, "images": images, **errors}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--images", type=int, default=200, help="test views of the loss (default: 200)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(ROOT / "models/cars_32")
    full = watched(pipeline, "ddpm", STEPS, options.seed)
    draw_trajectory(full, options.output / "trajectory.png")
    draw_steps(watched(pipeline, "ddpm", FEW, options.seed), options.output / "steps.png")
    columns = {
        f"DDPM, {STEPS} steps": full[-1].after,
        "without the noise": watched(pipeline, "ddpm", STEPS, options.seed, without_noise=True)[-1].after,
        f"DDIM, {STEPS} steps": watched(pipeline, "ddim", STEPS, options.seed)[-1].after,
        r"first $\hat x_0$": full[0].clean,
    }
    draw_terms(columns, options.output / "terms.png")
    pipeline.scheduler = make_solver(pipeline.scheduler, "ddpm")
    draw_loss(pipeline, options.images, options.output / "loss.png")


if __name__ == "__main__":
    main()
