"""The callback that evaluates a noise-aware classifier on the validation images."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from cardiff.diffusion.levels import exact_log_snr
from cardiff.diffusion.loss import memory_format, model_range
from cardiff.diffusion.randomness import HELD_OUT, batch_noise, derive_seed
from cardiff.files import write_text
from cardiff.plotting import save_accuracy_curve
from cardiff.training.callbacks import ModelCallback
from cardiff.training.trainer import Trainer

LEVELS = 12
"""Number of noise levels in a report."""
LEAST_LOG_SNR = -12.0
"""Lowest log-SNR of a report: below it the images are pure noise and the accuracy is chance."""


class ClassifierReport(ModelCallback):
    """Accuracy and cross-entropy on the validation images, clean and at several noise levels, with fixed noise."""

    doing, result = "measuring", "the classifier's report"
    measured: dict | None = None
    """The newest report, as in its JSON file."""

    def due(self, trainer: Trainer) -> bool:
        """Only if there are validation images."""
        return len(trainer.data.validation_rows) > 0 and super().due(trainer)

    def missing(self, trainer: Trainer) -> bool:
        """Whether the log, which is written last, has no entry for this step."""
        return not trainer.log.has(trainer.global_step, "validation_accuracy")

    def run(self, trainer: Trainer) -> None:
        """Write reports/step-….json and the figure."""
        alphas_cumprod = self.scheduler.alphas_cumprod.cpu()  # training has moved it to its device
        levels = report_timesteps(alphas_cumprod)
        correct, cross_entropy = self.measure(trainer, levels).tolist()  # the clean images come first
        log_snr = exact_log_snr(alphas_cumprod)[levels].tolist()
        count = len(trainer.data.validation_rows)
        shares = [{"accuracy": c / count, "cross_entropy": h / count} for c, h in zip(correct, cross_entropy)]
        noisy = [
            {"timestep": t, "log_snr": value, **share, "images": count}
            for t, value, share in zip(levels, log_snr, shares[1:])
        ]
        chance = np.bincount(trainer.data.labels[trainer.data.validation_rows]).max() / count
        self.measured = {
            "step": trainer.global_step,
            "chance": float(chance),  # accuracy of always predicting the most frequent class
            "clean": {"timestep": 0, **shares[0], "images": count},
            "levels": noisy,
        }
        if trainer.accelerator.is_main_process:
            path = trainer.output_dir / "reports" / f"step-{trainer.global_step:08d}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self.measured, indent=1) + "\n")
            save_accuracy_curve(self.measured, path.with_suffix(".png"))
        trainer.log.record(trainer.global_step, {f"validation_{name}": value for name, value in shares[0].items()})

    @torch.no_grad()
    def measure(self, trainer: Trainer, levels: list[int]) -> torch.Tensor:
        """Number of correct predictions and summed cross-entropy, (2, 1 + L): clean images, then each noise level.

        The classifier computes in the precision of the run. Each process evaluates its share of the validation
        images; all receive the sums.
        """
        accelerator, data, seed = trainer.accelerator, trainer.data, trainer.config.train.seed
        classifier = trainer.averaged_model().to(trainer.device).eval()
        totals = torch.zeros(2, 1 + len(levels), device=trainer.device)
        count, index, processes = len(data.validation_rows), accelerator.process_index, accelerator.num_processes
        stop = count * (index + 1) // processes
        for first in range(count * index // processes, stop, trainer.pass_size):
            part = range(first, min(first + trainer.pass_size, stop))
            rows = data.validation_rows[part.start : part.stop]
            images = model_range(torch.from_numpy(data.store.images[rows]).to(trainer.device))
            labels = torch.from_numpy(data.labels[rows]).to(trainer.device)
            for k, t in enumerate([0, *levels]):
                noise = batch_noise(derive_seed(seed, HELD_OUT), k, part, tuple(images.shape[1:]), trainer.device)
                timesteps = torch.full_like(labels, t)
                noisy = self.scheduler.add_noise(images, noise, timesteps)
                noisy = noisy.contiguous(memory_format=memory_format(trainer.config))
                with accelerator.autocast():
                    logits = classifier(images if k == 0 else noisy, timesteps).float()  # (b, N)
                totals[0, k] += (logits.argmax(dim=1) == labels).sum()
                totals[1, k] += F.cross_entropy(logits, labels, reduction="sum")
        return accelerator.reduce(totals, "sum")

    def finish(self, trainer: Trainer) -> None:
        """Print the accuracy of the finished classifier."""
        if self.measured is not None and trainer.finished:
            clean = self.measured["clean"]
            trainer.log.say(
                f"The classifier's accuracy on {clean['images']} clean validation images is {clean['accuracy']:.1%}."
            )


def report_timesteps(alphas_cumprod: torch.Tensor) -> list[int]:
    """Up to LEVELS timesteps, ascending and evenly spaced in log-SNR, from the first to the last or LEAST_LOG_SNR.

    Args:
        alphas_cumprod: ᾱ_t on the CPU, (T,).
    """
    log_snr = exact_log_snr(alphas_cumprod)  # (T,), decreasing; the last can be -inf
    lowest = max(log_snr[-1].item(), LEAST_LOG_SNR)
    wanted = torch.linspace(log_snr[0].item(), lowest, LEVELS, dtype=torch.float64)
    return (log_snr[:, None] - wanted).abs().argmin(dim=0).unique().tolist()
