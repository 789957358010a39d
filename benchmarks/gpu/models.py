"""Parts d and e: a model trained for as long as there is time, its grid, and its distance to the data."""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState

from benchmarks.gpu.checks import logged
from benchmarks.gpu.data import DIGITS, Found, digits, first_at_hand
from benchmarks.gpu.record import Failed, Skipped
from benchmarks.gpu.world import TINY_RESOLUTION, Entry, World
from cardiff.errors import UserError
from cardiff.evaluation.features.networks import MOST_PIXELS, load_network
from cardiff.evaluation.options import EvaluateOptions
from cardiff.files import remove
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run as sample
from cardiff.training.callbacks import Callback
from cardiff.training.trainer import Trainer

IMAGES = 10_000
"""Images whose distance to the data is measured."""
GRID_SECONDS, DISTANCE_SECONDS = 45, 120
"""Time kept free at the end of a part for its grid and its distance."""
LEAST_SECONDS = 30
"""Time that training takes at least, even if a part has less."""
DRY_STEPS = 6
ROWS = 10
"""Classes in a grid, at most."""


def cifar10(world: World) -> list[Entry]:
    """Part d: CIFAR-10 with the shipped configuration, and the FID of IMAGES samples."""
    run = Run(world, "cifar10_32_conditional", ("cifar10", "cars32"), 32, GRID_SECONDS + DISTANCE_SECONDS)
    return [*run.entries("d"), Entry("distance to the data", run.distance, grace=150, limit=600)]


def larger(world: World) -> list[Entry]:
    """Part e: cars at 64x64 with the shipped configuration, or aircraft with the same network."""
    return Run(world, "cars_64_conditional", ("cars64", "aircraft64"), 64, GRID_SECONDS).entries("e")


class UntilTime(Callback):
    """Stops a run at a time, as a signal would: its last step is saved, and the next call goes on from there."""

    def __init__(self, end: float, steps: int | None):
        super().__init__(every=1)
        self.end, self.steps = end, steps

    def run(self, trainer: Trainer) -> None:
        """Stop if it is time, or after so many steps."""
        if time.time() >= self.end or (
            self.steps is not None and trainer.global_step - trainer.start_step >= self.steps
        ):
            trainer.stopping = True


class Run:
    """A training run that goes on for as long as there is time.

    Args:
        world: Where it runs.
        config: Name of the configuration.
        sets: Data sets, of which the first that is at hand is taken.
        resolution: Of the images.
        reserve: Seconds to leave for what follows.
    """

    def __init__(self, world: World, config: str, sets: Sequence[str], resolution: int, reserve: float):
        self.world, self.config, self.reserve = world, config, reserve
        if world.options.dry_run:
            self.data = Found(DIGITS, digits(TINY_RESOLUTION), "digits: the dry run")
        else:
            self.data = first_at_hand(sets, world.options.data, resolution)
        self.folder = world.folder(f"{config}_on_{self.data.name}")

    def entries(self, part: str) -> list[Entry]:
        """Training, and its grid in the folder of the results."""
        picture = self.world.options.output / f"{part}.png"
        return [
            Entry("training", self.train, limit=3600, grace=60),
            Entry("grid", lambda: self.grid(picture), grace=60),
        ]

    def train(self) -> dict[str, Any]:
        """Train from the newest checkpoint until there is only time for what follows."""
        world, dry = self.world, self.world.options.dry_run
        print(f"   data: {self.data.why}", flush=True)
        settings: dict[str, Any] = {"lr_warmup_steps": 500, "ema_decay": 0.999, "max_steps": 200_000}
        settings |= {"checkpoint_every": 2000, "log_every": 50, "compile": world.cuda}
        if dry:
            settings |= {"batch_size": 8, "log_every": 2, "checkpoint_every": 0}
        end = max(world.deadline - self.reserve, time.time() + LEAST_SECONDS)
        start = time.perf_counter()
        with world.trainer(
            world.configuration(self.config, self.folder, data=self.data.options, **settings)
        ) as trainer:
            trainer.callbacks = [UntilTime(end, DRY_STEPS if dry else None), *trainer.callbacks]
            first = trainer.global_step
            while not trainer.done:
                trainer.step()
                trainer.run_callbacks()
            last, batch_size, memory = trainer.global_step, trainer.config.train.batch_size, world.peak_mib()
        log = [entry for entry in logged(self.folder) if "loss" in entry and entry["step"] > first]
        if not log or not np.isfinite(log[-1]["loss"]):
            raise Failed(f"{self.folder}/logs has no finite loss after step {first}.")
        rates = [entry["images_per_second"] for entry in log]
        return {
            "config": self.config,
            "data": self.data.name,
            "why": self.data.why,
            "settings": settings,
            "first_step": first,
            "step": last,
            "images_seen": last * batch_size,
            "seconds": round(time.perf_counter() - start, 1),
            "images_per_second": round(statistics.median(rates), 1),
            "loss": {entry["step"]: round(entry["loss"], 5) for entry in log[:: max(1, len(log) // 20)]},
            "peak_memory_mib": memory,
        }

    def grid(self, picture: Path) -> dict[str, Any]:
        """A row for each of up to ROWS classes, without guidance and with some."""
        self._trained()
        names = load_pipeline(self.folder).class_names()
        labels = np.linspace(0, len(names) - 1, min(ROWS, len(names))).round().astype(int).tolist()
        picture.parent.mkdir(parents=True, exist_ok=True)
        columns, start = (2 if self.world.options.dry_run else 8), time.perf_counter()
        sample(
            SampleOptions(
                model=str(self.folder),
                grid=str(picture),
                labels=labels,
                num_images=columns * len(labels),
                guidance_scale=[1.0, 2.0],
                steps=4 if self.world.options.dry_run else 25,
            )
        )
        return {"picture": picture.name, "data": self.data.name, "seconds": round(time.perf_counter() - start, 1)}

    def distance(self) -> dict[str, Any]:
        """The Fréchet distance of samples to the data: the FID if its network is at hand."""
        from cardiff.evaluation.evaluate import run as evaluate  # takes seconds to import

        self._trained()
        network, why = self._network()
        report = self.world.fresh("distance")
        start = time.perf_counter()
        evaluate(
            EvaluateOptions(
                model=str(self.folder),
                output=str(report),
                metrics="fid",
                network=network,
                network_weights=self.world.options.weights if network == "inception" else None,
                num_images=32 if self.world.options.dry_run else IMAGES,
                steps=4 if self.world.options.dry_run else 25,
                keep_images=False,
            )
        )
        measured = json.loads((report / "metrics.json").read_text())
        remove(report)
        found = {"network": network, "why": why, "seconds": round(time.perf_counter() - start, 1)}
        return {**found, "data": self.data.name, "measured": measured}

    def _trained(self) -> None:
        """A new process state for Accelerate, and a model that was trained."""
        AcceleratorState._reset_state(reset_partial_state=True)
        if not (self.folder / "model_index.json").is_file():
            raise Skipped(f"needs the model of the entry training, of which there is none in {self.folder}")

    def _network(self) -> tuple[str, str]:
        """The feature network, and why it is this one."""
        cpu, missing = torch.device("cpu"), []
        for name in ("inception", "mobilenet"):
            try:
                load_network(name, weights=self.world.options.weights if name == "inception" else None, device=cpu)
            except UserError as error:
                missing.append(str(error))
            else:
                return name, " ".join([f"{name} is at hand.", *missing])
        config = json.loads((self.folder / "unet/config.json").read_text())
        if config["sample_size"] ** 2 * config["in_channels"] > MOST_PIXELS:
            raise Skipped(" ".join(["needs the weights of a feature network.", *missing]))
        return "pixels", " ".join(["Only the pixels are at hand.", *missing])
