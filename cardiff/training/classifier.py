"""Training a noise-aware classifier, and measuring it on images that it was not trained on."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cardiff.diffusion.networks import build_classifier
from cardiff.diffusion.randomness import HELD_OUT, batch_noise, derive_seed
from cardiff.hub.serialization import save_classifier
from cardiff.plotting import save_accuracy_curve
from cardiff.training.trainer import Trainer
from pipelines import NoisyClassifier

LEVELS = 12
"""Noise levels of a report."""
LEAST_LOG_SNR = -12.0
"""Where a report ends, since beyond it are nothing but noise and chance, of which some schedules have much."""


class ClassifierTrainer(Trainer):
    """Trains the classifier of Dhariwal and Nichol (arXiv 2105.05233, section 4.1): x_t at uniformly drawn t."""

    measured: dict | None = None
    """The newest report, as its file has it."""

    def build_model(self) -> NoisyClassifier:
        """The classifier of the run."""
        return build_classifier(self.config, self.scheduler, self.class_names)

    def loss(self, images, timesteps, noise, flip, labels=None, drop=None) -> torch.Tensor:
        """Cross-entropy of each image, (b,), from uint8 images (b, C, H, W) and the draws made for them."""
        _, noisy = self.noised(images, timesteps, noise, flip)
        return F.cross_entropy(self.model(noisy, timesteps).float(), labels, reduction="none")

    @property
    def show_every(self) -> int:
        """Steps between reports; 0 without held-out images."""
        return self.config.train.report_every if len(self.held_out) else 0

    def show(self) -> None:
        """Measure the averaged weights on the held-out images, at the same noise every time."""
        levels = report_timesteps(self.scheduler.alphas_cumprod)
        correct, cross_entropy = self.measure(levels).tolist()  # of the clean images first
        log_snr = torch.logit(self.scheduler.alphas_cumprod.double())[levels].tolist()
        count = len(self.held_out)
        shares = [{"accuracy": c / count, "cross_entropy": h / count} for c, h in zip(correct, cross_entropy)]
        noisy = [
            {"timestep": t, "log_snr": value, **share, "images": count}
            for t, value, share in zip(levels, log_snr, shares[1:])
        ]
        chance = np.bincount(self.data.labels[self.held_out]).max() / count
        self.measured = {
            "step": self.global_step,
            "chance": float(chance),  # of always naming the most frequent class
            "clean": {"timestep": 0, **shares[0], "images": count},
            "levels": noisy,
        }
        self.log.record(self.global_step, {f"held_out_{name}": value for name, value in shares[0].items()})
        if self.accelerator.is_main_process:
            path = self.output_dir / "reports" / f"step-{self.global_step:08d}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.measured, indent=1) + "\n")
            save_accuracy_curve(self.measured, path.with_suffix(".png"))

    @torch.no_grad()
    def measure(self, levels: list[int]) -> torch.Tensor:
        """Held-out images read correctly and sums of their cross-entropy, (2, 1 + L): clean, then at each timestep.

        Every process takes its part of the images, and all get the sums.
        """
        train, accelerator = self.config.train, self.accelerator
        classifier = self.averaged_model().to(self.device).eval()
        totals = torch.zeros(2, 1 + len(levels), device=self.device)
        count, index, processes = len(self.held_out), accelerator.process_index, accelerator.num_processes
        size = len(self.positions) // train.gradient_accumulation_steps  # what training fits in memory
        stop = count * (index + 1) // processes
        for first in range(count * index // processes, stop, size):
            part = range(first, min(first + size, stop))
            rows = self.held_out[part.start : part.stop]
            images = torch.from_numpy(self.data.images[rows]).to(self.device)
            labels = torch.from_numpy(self.data.labels[rows]).to(self.device)
            unflipped = torch.zeros_like(labels, dtype=torch.bool)
            for k, t in enumerate([0, *levels]):
                noise = batch_noise(derive_seed(train.seed, HELD_OUT), k, part, tuple(images.shape[1:]), self.device)
                timesteps = torch.full_like(labels, t)
                clean, noisy = self.noised(images, timesteps, noise, unflipped)
                logits = classifier(clean if k == 0 else noisy, timesteps)  # (b, N)
                totals[0, k] += (logits.argmax(dim=1) == labels).sum()
                totals[1, k] += F.cross_entropy(logits, labels, reduction="sum")
        return accelerator.reduce(totals, "sum")

    def save_model(self, model: NoisyClassifier, folder: Path) -> None:
        """Write the classifier with these weights and the noise levels."""
        save_classifier(model, self.scheduler, folder)

    @property
    def outcome(self) -> str:
        """Where the classifier is, and how well it reads."""
        if self.measured is None:
            return f"the classifier is in {self.output_dir}."
        clean = self.measured["clean"]
        return (
            f"the classifier in {self.output_dir} reads {clean['accuracy']:.1%} of {clean['images']} held-out clean "
            "images."
        )


def report_timesteps(alphas_cumprod: torch.Tensor) -> list[int]:
    """Up to LEVELS timesteps, rising, at even distances in log-SNR from the first to the last or LEAST_LOG_SNR."""
    log_snr = torch.logit(alphas_cumprod.double())  # (T,), falling; the last can be -inf
    wanted = torch.linspace(log_snr[0], log_snr[-1].clamp(min=LEAST_LOG_SNR), LEVELS, dtype=torch.float64)
    return (log_snr[:, None] - wanted).abs().argmin(dim=0).unique().tolist()
