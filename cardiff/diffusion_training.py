"""Training a diffusion model, conditional or not."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

from cardiff.hub import save_pipeline
from cardiff.models import build_pipeline, build_unet, null_class
from cardiff.objective import loss_weights, prediction_target, squared_error
from cardiff.plots import save_labelled_grid
from cardiff.sampling import draw_images, gather_dict, make_solver
from cardiff.training import Trainer
from pipelines import ClassConditionalPipeline


class DiffusionTrainer(Trainer):
    """Trains the denoiser of Ho et al. (arXiv 2006.11239), with the labels dropped as in arXiv 2207.12598."""

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
        accelerator, count = self.accelerator, train.sample_images
        unet = self.averaged_model().to(self.device).eval()
        if self.config.labelled:
            rows = min(8, len(self.class_names), count)
            shown = np.linspace(0, len(self.class_names) - 1, rows).round().astype(int).tolist()
            columns = count // rows
            labels = [label for label in shown for _ in range(columns)]
            names = [self.class_names[label] for label in shown]
        else:
            rows = math.isqrt(count)
            columns, labels, names = count // rows, None, [""] * math.isqrt(count)
        pipeline = ClassConditionalPipeline(
            unet, make_solver(self.scheduler, "dpm"), dict(enumerate(self.class_names))
        )
        mine = list(range(accelerator.process_index, rows * columns, accelerator.num_processes))
        images = draw_images(
            pipeline,
            mine,
            seed=train.seed,
            labels=None if labels is None else [labels[i] for i in mine],
            guidance_scale=getattr(train, "sample_guidance_scale", 1.0),
            steps=train.sample_steps,
            batch_size=len(self.positions) // train.gradient_accumulation_steps,  # what training fits in memory
        )
        images = gather_dict(dict(zip(mine, images)))
        if accelerator.is_main_process:
            path = self.output_dir / "samples" / f"step-{self.global_step:08d}.png"
            save_labelled_grid(np.stack([images[i] for i in sorted(images)])[None], names, [""], path)

    def save_model(self, model: UNet2DModel, folder: Path) -> None:
        """Write the pipeline around the UNet with these weights."""
        save_pipeline(build_pipeline(model, self.scheduler, self.class_names), folder)

    @property
    def outcome(self) -> str:
        """Where the pipeline is."""
        return f"the pipeline is in {self.output_dir}."
