"""Callbacks that sample from the averaged weights of a diffusion model: sample grids and small evaluations."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from diffusers import DDPMScheduler
from tqdm.auto import tqdm

from cardiff.config.sections import DiffusionTrainConfig
from cardiff.distributed import gather_dict
from cardiff.evaluation.samples import keep_best, labels_as_in
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.draw import draw, timesteps_of
from cardiff.sampling.solvers import make_solver
from cardiff.training.callbacks import ModelCallback, save_model
from cardiff.training.trainer import Trainer

if TYPE_CHECKING:
    from cardiff.evaluation.protocol import Protocol


def _options(trainer: Trainer) -> DiffusionTrainConfig:
    assert isinstance(trainer.config.train, DiffusionTrainConfig)
    return trainer.config.train


def draw_averaged(
    trainer: Trainer, scheduler: DDPMScheduler, count: int, labels: list[int] | None, guidance_scale: float
) -> np.ndarray:
    """Draw `count` images from the averaged weights, uint8 (B, H, W, C), from the same noise every time.

    The processes share the work, and each receives all images. The network is evaluated in the run's mixed precision;
    its weights remain float32, since they are saved.
    """
    pipeline = ClassConditionalPipeline(
        trainer.averaged_model().to(trainer.device).eval(),
        make_solver(scheduler, "dpm"),
        dict(enumerate(trainer.data.class_names)),
    )
    accelerator, train = trainer.accelerator, _options(trainer)
    timesteps = None
    if train.timesteps_from is not None:
        timesteps = timesteps_of(scheduler, train.timesteps_from, train.sample_steps, allow_code=True)
    mine = list(range(count))[accelerator.process_index :: accelerator.num_processes]
    hidden = not accelerator.is_main_process
    progress_bar = tqdm(total=len(mine), desc="sampling", unit="img", leave=False, disable=hidden)
    with progress_bar as bar, accelerator.autocast():
        images, _ = draw(
            pipeline,
            mine,
            seed=train.seed,
            labels=None if labels is None else [labels[i] for i in mine],
            guidance_scale=guidance_scale,
            steps=train.sample_steps,
            batch_size=trainer.pass_size,
            timesteps=timesteps,
            progress=bar.update,
        )
    found = gather_dict(dict(zip(mine, images)))
    return np.stack([found[i] for i in sorted(found)])


class SampleGrid(ModelCallback):
    """Draws a grid of samples: a row for each of up to eight classes, or a square without labels."""

    doing, result = "showing", "the sample grid"

    def file(self, trainer: Trainer) -> Path:
        """Path of this step's grid."""
        return trainer.output_dir / "samples" / f"step-{trainer.global_step:08d}.png"

    def missing(self, trainer: Trainer) -> bool:
        """Whether the file does not exist."""
        return not self.file(trainer).exists()

    def run(self, trainer: Trainer) -> None:
        """Write samples/step-….png."""
        train, class_names = _options(trainer), trainer.data.class_names
        labels, names, count = grid_of(class_names, train.sample_images)
        scale = getattr(train, "sample_guidance_scale", 1.0)
        images = draw_averaged(trainer, self.scheduler, count, labels, scale)
        if trainer.accelerator.is_main_process:
            save_labelled_grid(images[None], names, [""], self.file(trainer))


def grid_of(class_names: list[str], count: int) -> tuple[list[int] | None, list[str], int]:
    """Labels of the images in a grid (None without classes), the names of its rows, and the number of images."""
    if not class_names:
        rows = math.isqrt(count)
        return None, [""] * rows, count // rows * rows
    rows = min(8, len(class_names), count)
    shown = np.linspace(0, len(class_names) - 1, rows).round().astype(int).tolist()
    labels = [label for label in shown for _ in range(count // rows)]
    return labels, [class_names[label] for label in shown], len(labels)


class Evaluation(ModelCallback):
    """Measures samples of the averaged weights against the data, and keeps the best model so far in best/."""

    doing, result = "evaluating", "the evaluation"
    protocol: "Protocol"

    def missing(self, trainer: Trainer) -> bool:
        """Whether the log, which is written last, has no entry for this step."""
        return not trainer.log.has(trainer.global_step, "evaluation_distance")

    def start(self, trainer: Trainer) -> None:
        """Prepare the evaluation protocol: the run's own data as reference, and a feature network."""
        if not self.every:
            return
        from cardiff.evaluation.options import ProtocolOptions
        from cardiff.evaluation.protocol import Protocol  # takes two seconds to import

        train, data = _options(trainer), trainer.config.data
        options = ProtocolOptions(
            output=str(trainer.output_dir),
            reference=str(trainer.output_dir / "config.yaml"),
            metrics="fid",
            network=train.evaluate_network,
        )
        self.protocol = Protocol(options, data.resolution, data.channels, trainer.pass_size)

    def run(self, trainer: Trainer) -> None:
        """Draw samples, measure them, and keep the model if it is the best so far."""
        train = _options(trainer)
        count = train.evaluate_images
        labels = labels_as_in(np.bincount(trainer.data.labels), count) if trainer.config.labelled else None
        images = draw_averaged(trainer, self.scheduler, count, labels, guidance_scale=1.0)
        asked_for = None if labels is None else np.array(labels)
        measured = self.protocol.measure(images.transpose(0, 3, 1, 2), asked_for, metrics=["fid"])
        distance = measured.estimates["fid"].value
        model = trainer.averaged_model()  # called by all processes, since each may hold a shard
        if trainer.accelerator.is_main_process:
            record = {
                "step": trainer.global_step,
                "distance": measured.estimates["fid"].to_dict(),
                "images": count,
                "steps": train.sample_steps,
                "precision": trainer.accelerator.mixed_precision,
                "protocol": self.protocol.record(),
            }
            keep_best(trainer.output_dir / "best", record, lambda folder: save_model(trainer, model, folder))
        trainer.log.record(trainer.global_step, {"evaluation_distance": distance})
