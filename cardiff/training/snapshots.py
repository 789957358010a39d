"""Snapshots of the power-function averages of a run, for averages of any width after training."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cardiff.errors import UserError
from cardiff.files import apply_folder_permissions, write_file
from cardiff.training.callbacks import Callback
from cardiff.training.sharding import gathered

if TYPE_CHECKING:
    from cardiff.training.trainer import Trainer

FOLDER = "averages"
"""Folder of the snapshots in that of a run."""


class AverageSnapshots(Callback):
    """Writes averages/step-….safetensors: each average's weights as WIDTH/NAME.

    Args:
        trainer: Of whose run they are; its length is divided into train.ema_snapshots parts.
    """

    doing, result = "saving averages", "the snapshot of the averages"

    def __init__(self, trainer: "Trainer"):
        train = trainer.config.train
        super().__init__(math.ceil(trainer.total_steps / train.ema_snapshots) if train.ema_widths else 0)
        self.half = train.ema_snapshot_precision == "fp16"

    def file(self, trainer: "Trainer") -> Path:
        """Of this step."""
        return trainer.output_dir / FOLDER / f"step-{trainer.global_step:08d}.safetensors"

    def missing(self, trainer: "Trainer") -> bool:
        """Whether the file does not exist."""
        return not self.file(trainer).exists()

    def run(self, trainer: "Trainer") -> None:
        """Gather and write them."""
        main = trainer.accelerator.is_main_process
        tensors = {
            name: tensor.half() if self.half else tensor.float()
            for name, tensor in gathered(trainer.named_averages(), keep=main)
        }
        if not main:
            return
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        metadata = {"format": "pt", "step": str(trainer.global_step)}

        def write(file: Path) -> None:
            save_file(tensors, file, metadata)
            apply_folder_permissions(file)

        write_file(self.file(trainer), write)


def read_snapshots(run: Path) -> list[tuple[Path, float, int]]:
    """The averages in the snapshots of a run: file, width and step of each.

    Raises:
        UserError: There are none, or a file is damaged.
    """
    found = []
    for file in sorted((run / FOLDER).glob("step-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as content:
                step = int(content.metadata()["step"])
                widths = {float(name.partition("/")[0]) for name in content.keys()}
        except Exception as error:  # what safetensors raises is no class of its own for all
            reason = " ".join(str(error).split())
            raise UserError(f"{file} is damaged ({reason}): remove it; the others can do without.") from error
        found += [(file, width, step) for width in sorted(widths)]
    if not found:
        raise UserError(
            f"{run} has no snapshots of averages: train with --train.ema_widths '[0.05,0.10]' to choose widths later."
        )
    return found


def tensors_of(file: Path, width: float) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of one average in a snapshot by name, in float64."""
    with safe_open(file, framework="pt") as content:
        for key in content.keys():
            found, _, name = key.partition("/")
            if float(found) == width:
                yield name, content.get_tensor(key).double()
