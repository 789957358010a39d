"""The log of a run: JSON lines, Accelerate's trackers and the progress bar."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from cardiff.files import append_text, write_text
from cardiff.training.sharding import whole

QUARTERS = 4


class LossTotals:
    """Sums of the loss by quarter of the timesteps, kept on the device so that a step need not wait for them."""

    def __init__(self, device: torch.device | str):
        self.sums = torch.zeros(2, QUARTERS, device=device)  # loss, number of images
        self.grad_norm = torch.zeros((), device=device)
        self.first_bad_step = torch.full((), torch.inf, device=device)

    def add(
        self,
        loss: torch.Tensor,
        timesteps: torch.Tensor,
        num_train_timesteps: int,
        importance: torch.Tensor | None = None,
    ) -> None:
        """Add the losses (B,) of images at these timesteps (B,), and what they were divided by the inverse of."""
        quarter = timesteps * QUARTERS // num_train_timesteps
        self.sums[0].index_add_(0, quarter, loss)
        self.sums[1].index_add_(0, quarter, torch.ones_like(loss) if importance is None else importance)

    def watch(self, value: torch.Tensor, step: int) -> None:
        """Record the first step at which a value was not finite."""
        bad = torch.where(torch.isfinite(value).all(), torch.inf, float(step))
        self.first_bad_step = torch.minimum(self.first_bad_step, bad)

    def read(self, accelerator: Accelerator) -> tuple[dict, float]:
        """Averages over the images of all processes since the last call, and the first bad step (inf if none)."""
        sums = accelerator.reduce(self.sums, "sum").tolist()
        first_bad = accelerator.gather(self.first_bad_step[None]).min().item()
        values = {"loss": sum(sums[0]) / max(sum(sums[1]), 1)}
        values |= {f"loss_q{q + 1}": s / n for q, (s, n) in enumerate(zip(*sums)) if n}
        values["grad_norm"] = whole(self.grad_norm).item()
        self.sums.zero_()
        return values, first_bad


class RunLog:
    """Writes entries to logs/metrics.jsonl, the trackers and the progress bar, all in the main process only."""

    def __init__(self, accelerator: Accelerator, folder: Path, start_step: int, total_steps: int, config: dict):
        self.accelerator, self.file = accelerator, Path(folder, "metrics.jsonl")
        self.unwritten: list[str] = []
        """Lines that could not be written because the disk was full."""
        accelerator.init_trackers("tracker", config=_flat(config))
        if accelerator.is_main_process:
            _forget_after(self.file, start_step)
        self.bar = tqdm(
            total=total_steps,
            initial=start_step,
            desc="training",
            unit="step",
            disable=not accelerator.is_main_process,
            dynamic_ncols=True,
        )
        self._since = time.perf_counter()

    def write(self, step: int, values: dict, images: int) -> None:
        """Log the training metrics of a step, with the images per second since the last entry."""
        now = time.perf_counter()
        values = {**values, "images_per_second": images / (now - self._since)}
        self._since = now
        self.record(step, values)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", img_s=f"{values['images_per_second']:.0f}")

    def record(self, step: int, values: dict) -> None:
        """Log other values at a step; JSON has no word for one that is not finite, such as a norm in fp16, but null.

        Entries that cannot be written are kept for the next call, with a warning: a full disk must not stop training.
        """
        if self.accelerator.is_main_process:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self.unwritten.append(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            try:
                append_text(self.file, "".join(self.unwritten))
                self.unwritten = []
            except OSError as error:
                if len(self.unwritten) == 1:
                    self.say(
                        f"Warning: {self.file} cannot be written ({error}); its entries are kept in memory until then."
                    )
        try:
            self.accelerator.log(values, step=step)
        except OSError as error:
            self.say(f"Warning: a tracker could not write the entry of step {step} ({error}).")

    def has(self, step: int, name: str) -> bool:
        """Whether a value of this name was recorded at a step, now or before the run was resumed."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return any(_step(line) == step and name in json.loads(line) for line in [*lines, *self.unwritten])

    @contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """Label the progress bar with other work than training, and exclude that time from images per second."""
        started = time.perf_counter()
        self.bar.set_description(doing)
        try:
            yield
        finally:
            self.bar.set_description("training")
            self._since += time.perf_counter() - started

    def say(self, message: str) -> None:
        """Print a line without disturbing the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(message)
            sys.stdout.flush()  # so that a closed pipe is noticed now and not when the buffer is full

    def close(self) -> None:
        """Close the progress bar and flush the trackers."""
        self.bar.close()
        self.accelerator.end_training()


def _forget_after(file: Path, step: int) -> None:
    """Drop the entries of steps after `step`, the checkpoint resumed from, since those steps are repeated."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        lines = [line for line in file.read_text().splitlines() if _step(line) <= step]
        write_text(file, "".join(line + "\n" for line in lines))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # the last line of a killed process can be truncated


def _flat(config: dict, prefix: str = "") -> dict:
    """Nested sections flattened to dotted names, with values of types that every tracker accepts."""
    flat: dict[str, int | float | str | bool] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
