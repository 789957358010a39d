"""What the parts work with: the device, the shipped configurations, images, and trainers that come and go."""

import gc
import io
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from benchmarks.gpu.options import ROOT, Options
from cardiff.config.run import RunConfig, configure
from cardiff.distributed import device_name
from cardiff.files import remove
from cardiff.hub.provenance import versions
from cardiff.training.build import build
from cardiff.training.trainer import Trainer
from cardiff.version import cardiff_version

TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [8, 16],
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 8,
    },
    "classifier": {
        "block_out_channels": [8, 16],
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "attention_head_dim": 8,
    },
}
"""The network of every configuration in a dry run."""
TINY_RESOLUTION = 16
CLASSES = {"digits": 10, "cifar10": 10, "fashion": 10, "cars": 56, "aircraft": 34, "stanford": 196}
"""Number of classes of each configuration's data, by the first word of its name."""
QUIET = {"train.trackers": [], "train.sample_every": 0, "train.evaluate_every": 0, "train.report_every": 0}


@dataclass(frozen=True)
class Entry:
    """One thing to find out."""

    name: str
    run: Callable[[], dict[str, Any]]
    """Returns what was found; raises Failed or Skipped."""
    needs_cuda: bool = False
    dry: bool = True
    """Whether a dry run does it, too."""
    limit: float | None = None
    """Seconds after which it counts as hanging; None for the usual ones."""
    grace: float = 0.0
    """Seconds that it may go on after the time of its part, in addition to the usual ones."""


@dataclass
class World:
    """The device and what is needed for runs on it."""

    options: Options
    device: torch.device
    deadline: float
    """Time, as of time.time(), after which no entry starts."""

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.time(), 0)

    def folder(self, *names: str) -> Path:
        """A folder for work that is not kept with the results."""
        return self.options.work.joinpath(*(name.replace(" ", "_") for name in names))

    def configuration(self, name: str, folder: Path, *, data: dict[str, Any] | None = None, **train: Any) -> RunConfig:
        """A shipped configuration as a run here: on generated images, unless `data` says otherwise, without extras.

        Args:
            name: Of the file in configs/.
            folder: Of the run.
            data: Options of the section `data`, without the prefix.
            train: Options of the section `train`, likewise.
        """
        return configure(name, str(folder), **self.settings(name, data, **train))

    def settings(self, name: str, data: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
        """The options that `configuration` gives."""
        content = read_config(name)
        kind, network = content["kind"], "classifier" if content["kind"] == "classifier" else "unet"
        found: dict[str, Any] = {"data.cache_dir": str(self.folder("cache"))}
        resolution, channels = content["data"]["resolution"], content["data"].get("channels", 3)
        if self.options.dry_run:
            resolution = TINY_RESOLUTION
            found |= {f"{network}.{key}": value for key, value in TINY[network].items()}
            found |= {"data.resolution": resolution, "data.num_workers": 0, "data.upscale": True}
        if data is None:
            data = generated_images(self.folder("images"), resolution, channels, CLASSES[name.split("_")[0]])
        found |= {f"data.{key}": value for key, value in data.items()}
        quiet = {key: value for key, value in QUIET.items() if key in _known(kind)}
        return found | quiet | {f"train.{key}": value for key, value in train.items()}

    @contextmanager
    def trainer(self, config: RunConfig) -> Iterator[Trainer]:
        """A run in this process, of which nothing is left on the device afterwards."""
        AcceleratorState._reset_state(reset_partial_state=True)
        torch._dynamo.reset()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer = build(config)
        try:
            yield trainer
        finally:
            trainer.stop_requested.restore()
            trainer.log.close()
            if trainer.lock is not None:
                trainer.lock.release()
            del trainer
            self.clear()

    def clear(self) -> None:
        """Free the device's memory."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def peak_mib(self) -> int | None:
        """Most memory that tensors took on the GPU, in MiB."""
        return round(torch.cuda.max_memory_allocated() / 2**20) if self.cuda else None

    def fresh(self, *names: str) -> Path:
        """An empty place for a run."""
        folder = self.folder(*names)
        if folder.exists():
            remove(folder)
        return folder


def read_config(name: str) -> dict[str, Any]:
    """The content of a file of configs/."""
    return yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())


def config_names() -> list[str]:
    """All shipped configurations."""
    return sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))


def _known(kind: str) -> set[str]:
    own = {"train.report_every"} if kind == "classifier" else {"train.sample_every", "train.evaluate_every"}
    return {"train.trackers", *own}


def generated_images(folder: Path, resolution: int, channels: int, classes: int) -> dict[str, Any]:
    """Smooth random pictures, at least two of each class, as options of the section `data`."""
    file = folder / f"{resolution}_{channels}_{classes}.parquet"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng, rows = np.random.default_rng(0), []
        for i in range(max(2 * classes, 64)):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            picture = coarse.resize((resolution, resolution), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            picture.convert("RGB" if channels == 3 else "L").save(buffer, "PNG")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": i % classes})
        names = ClassLabel(names=[f"class {label}" for label in range(classes)])
        Dataset.from_list(rows, features=Features({"image": ImageFeature(), "label": names})).to_parquet(file)
    return {"path": "parquet", "data_files": str(file), "image_column": "image", "label_column": "label"}


def machine(device: torch.device, dry_run: bool) -> dict[str, Any]:
    """What the results were found on, and with."""
    found: dict[str, Any] = {"device": device_name(device, with_threads=True), "dry_run": dry_run}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "driver": _driver(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found | {"versions": versions(), "commit": cardiff_version()}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
