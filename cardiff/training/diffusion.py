"""Training a diffusion model, conditional or not."""

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import UNet2DModel
from tqdm.auto import tqdm

from cardiff.config.run import RunConfig
from cardiff.diffusion.loss import loss_weights, prediction_target, squared_error
from cardiff.diffusion.networks import build_pipeline, build_unet, null_class
from cardiff.evaluation.samples import keep_best, labels_as_in
from cardiff.hub.serialization import save_pipeline
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.folder import draw_images, gather_dict, make_solver
from cardiff.training.trainer import Trainer
from pipelines import ClassConditionalPipeline

if TYPE_CHECKING:
    from cardiff.evaluation.protocol import Protocol


class DiffusionTrainer(Trainer):
    """Trains the denoiser of Ho et al. (arXiv 2006.11239), with the labels dropped as in arXiv 2207.12598."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        if self.evaluate_every:
            try:
                self.protocol  # noqa: B018 - a network that cannot be had is refused now and not after hours
            except BaseException:
                self.stop_requested.restore()
                raise

    def build_model(self) -> UNet2DModel:
        """The UNet of the run."""
        train = self.config.train
        unet = build_unet(self.config, len(self.class_names) if self.config.labelled else None)
        self.null_class = null_class(unet)
        self.loss_weights = loss_weights(self.scheduler, train.loss_weighting, train.min_snr_gamma).to(self.device)
        return unet

    def loss(self, images, timesteps, noise, flip, labels=None, drop=None) -> torch.Tensor:
        """Weighted squared error of each image, (b,), from uint8 images (b, C, H, W) and the draws made for them."""
        images, noisy = self.noised(images, timesteps, noise, flip)
        class_labels = None
        if self.config.labelled:
            class_labels = torch.where(drop, self.null_class, labels)
        output = self.model(noisy, timesteps, class_labels).sample
        target = prediction_target(self.scheduler, images, noise, timesteps)
        return self.loss_weights[timesteps] * squared_error(output, target)

    @property
    def show_every(self) -> int:
        """Steps between sample grids."""
        return self.config.train.sample_every

    def show(self) -> None:
        """Draw the sample grid from the averaged weights: the same noise and classes every time."""
        train = self.config.train
        count = train.sample_images
        if self.config.labelled:
            rows = min(8, len(self.class_names), count)
            shown = np.linspace(0, len(self.class_names) - 1, rows).round().astype(int).tolist()
            columns = count // rows
            labels = [label for label in shown for _ in range(columns)]
            names = [self.class_names[label] for label in shown]
        else:
            rows = math.isqrt(count)
            columns, labels, names = count // rows, None, [""] * math.isqrt(count)
        images = self.draw(range(rows * columns), labels, getattr(train, "sample_guidance_scale", 1.0))
        if self.accelerator.is_main_process:
            path = self.output_dir / "samples" / f"step-{self.global_step:08d}.png"
            save_labelled_grid(images[None], names, [""], path)

    def draw(self, indices: range, labels: list[int] | None, guidance_scale: float) -> np.ndarray:
        """Images of the averaged weights, uint8 (B, H, W, C), shared out over the processes; all get all of them."""
        pipeline = ClassConditionalPipeline(
            self.averaged_model().to(self.device).eval(),
            make_solver(self.scheduler, "dpm"),
            dict(enumerate(self.class_names)),
        )
        mine = list(indices)[self.accelerator.process_index :: self.accelerator.num_processes]
        hidden = not self.accelerator.is_main_process
        with tqdm(total=len(mine), desc="sampling", unit="img", leave=False, disable=hidden) as bar:
            images = draw_images(
                pipeline,
                mine,
                seed=self.config.train.seed,
                labels=None if labels is None else [labels[i] for i in mine],
                guidance_scale=guidance_scale,
                steps=self.config.train.sample_steps,
                batch_size=self.pass_size,
                progress=bar.update,
            )
        images = gather_dict(dict(zip(mine, images)))
        return np.stack([images[i] for i in sorted(images)])

    @property
    def pass_size(self) -> int:
        """Images in one pass of a network: what training fits in memory."""
        return len(self.positions) // self.config.train.gradient_accumulation_steps

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations."""
        return self.config.train.evaluate_every

    def evaluate(self) -> None:
        """Measure samples of the averaged weights against the data; the best model so far is kept in best/."""
        train, count = self.config.train, self.config.train.evaluate_images
        labels = labels_as_in(np.bincount(self.data.labels), count) if self.config.labelled else None
        images = self.draw(range(count), labels, guidance_scale=1.0)
        asked_for = None if labels is None else np.array(labels)
        measured = self.protocol.measure(images.transpose(0, 3, 1, 2), asked_for, metrics=["fid"])
        distance = measured.estimates["fid"].value
        self.log.record(self.global_step, {"evaluation_distance": distance})
        model = self.averaged_model()  # by all processes, since each may hold a part
        if self.accelerator.is_main_process:
            record = {
                "step": self.global_step,
                "distance": measured.estimates["fid"].to_dict(),
                "images": count,
                "steps": train.sample_steps,
                "protocol": self.protocol.record(),
            }
            keep_best(self.output_dir / "best", record, lambda folder: self.save(model, folder))

    @cached_property
    def protocol(self) -> "Protocol":
        """What the evaluations measure with."""
        from cardiff.evaluation.protocol import Protocol, ProtocolOptions  # two seconds that other runs need not wait

        train, data = self.config.train, self.config.data
        options = ProtocolOptions(
            output=str(self.output_dir),
            reference=str(self.output_dir / "config.yaml"),
            metrics="fid",
            network=train.evaluate_network,
        )
        return Protocol(options, data.resolution, data.channels, self.pass_size)

    def save_model(self, model: UNet2DModel, folder: Path) -> None:
        """Write the pipeline around the UNet with these weights."""
        save_pipeline(build_pipeline(model, self.scheduler, self.class_names), folder)

    @property
    def outcome(self) -> str:
        """Where the pipeline is."""
        return f"the pipeline is in {self.output_dir}."
