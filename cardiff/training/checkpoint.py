"""Checkpoints of a training run: written atomically, verified when read, and removed when they are old.

A checkpoint is a model that can be loaded (the averaged weights) with a folder `training/` next to it: the raw
weights, the optimizer state and whatever cannot be derived from the step number. Tensors are safetensors and the rest
is JSON, so nothing in a checkpoint is ever unpickled.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cardiff.errors import UserError
from cardiff.files import REMOVING, apply_folder_permissions, copy_together, disk_errors, flush, remove, written_aside
from cardiff.integrity import CHECKSUMS, find_damage, listed_files, write_checksums


def checkpoint_dir(root: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimizer steps."""
    return Path(root, f"step-{step:08d}")


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (p for p in Path(root).glob("step-*") if re.fullmatch(r"step-\d{8,}", p.name))
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def run_of(model: Path) -> Path:
    """The output folder of the run that a model belongs to.

    Args:
        model: That folder, a checkpoint or an average in it, or best/.
    """
    model = model.resolve()
    if model.parent.name in ("checkpoints", "averages"):
        return model.parent.parent
    return model.parent if model.name == "best" else model


def write_checkpoint(root: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Have `fill` write the files to a temporary folder, add their checksums, and rename the folder into place.

    Raises:
        OSError: The disk is full or not writable. What was written is removed; earlier checkpoints are untouched.
    """
    final = checkpoint_dir(root, step)
    with written_aside(final) as aside:  # replaces a damaged checkpoint of this step, which was skipped on resume
        aside.mkdir(parents=True)
        fill(aside)
        for path in [*write_checksums(aside), aside / CHECKSUMS]:
            flush(path)  # to disk before the rename
    flush(Path(root))
    return final


def publish(checkpoint: Path, output_dir: Path) -> None:
    """Copy a checkpoint's model to the root of the output folder: all of its files, or none if that fails.

    Raises:
        OSError: The disk is full or not writable; the root keeps the previous model.
    """
    checksums = {name: value for name, value in listed_files(checkpoint).items() if not name.startswith("training/")}
    output_dir.mkdir(parents=True, exist_ok=True)
    listed = output_dir / CHECKSUMS
    with written_aside(listed) as aside:
        aside.write_text(json.dumps(checksums, indent=1))
        copy_together([checkpoint / name for name in checksums], checkpoint, output_dir)


def prune(root: Path, newest: int, every: int, in_use: Path | None = None) -> None:
    """Remove all but the `newest` checkpoints and those whose step is a multiple of `every` (0 for none).

    The checkpoint `in_use`, which is being uploaded, is left until the next call.
    """
    for path in list_checkpoints(root)[:-newest]:
        if not (every and step_of(path) % every == 0) and path != in_use:
            # Rename first, so that an interrupted removal leaves nothing that looks like a checkpoint.
            trash = path.with_name(f"{REMOVING}{path.name}")
            os.replace(path, trash)
            remove(trash)


def good_checkpoints(root: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """Intact checkpoints, newest first; `report` is called with a sentence about each damaged one."""
    for path in reversed(list_checkpoints(root)):
        damage = find_damage(path)
        if damage is None:
            yield path
        else:
            report(f"Checkpoint {path} is damaged ({damage}); trying the previous one.")


def newest_in(folder: Path) -> Path:
    """The newest checkpoint in a run's folder or in its checkpoints/, or the folder itself if it is a checkpoint.

    Raises:
        UserError: There is no checkpoint.
    """
    if (folder / CHECKSUMS).is_file() and re.fullmatch(r"step-\d{8,}", folder.resolve().name):
        return folder.resolve()
    found = list_checkpoints(folder / "checkpoints") or list_checkpoints(folder)
    if not found:
        raise UserError(f"{folder} contains no checkpoint: give the output folder of a training run.")
    return found[-1]


def save_tensors(tensors: dict, path: Path) -> None:
    """Save named tensors as safetensors."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
        apply_folder_permissions(path)


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors on the CPU, one after another in the order of their names, so that they need little memory."""
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)
