"""Which data sets are at hand, and what is taken instead of those that are not, always with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.options import ROOT

FILES = {
    "cifar10": ("cifar10/train-*.parquet",),
    "cars64": ("cars64/train.parquet",),
    "aircraft64": ("aircraft64/train.parquet",),
    "cars32": ("cars32/train.parquet", "cars64/cars32.parquet"),
    "stanford_cars": ("stanford_cars/devkit/cars_train_annos.mat",),
}
"""Files of a data set, as patterns below one of the folders of --data."""
DIGITS = "digits"
"""The set that is always there, data/digits.parquet."""
OF_CONFIG = {"cifar10": "cifar10", "cars": "cars64", "aircraft": "aircraft64", "stanford": "stanford_cars"}
"""The data set of each configuration that is timed, by the first word of its name."""


@dataclass(frozen=True)
class Found:
    """A data set to use."""

    name: str
    options: dict[str, Any]
    """Of the section `data`, without the prefix."""
    why: str
    """Why it is this one, for the record."""


def locate(name: str, folders: Sequence[Path]) -> dict[str, Any] | None:
    """The options of a data set that is in one of the folders; None if it is in none."""
    for folder in folders:
        for pattern in FILES[name]:
            if any(folder.glob(pattern)):
                if name == "stanford_cars":
                    return {"path": str(folder / "stanford_cars")}
                files = {"path": "parquet", "data_files": str(folder / pattern)}
                return {**files, "image_column": "image", "label_column": "label"}
    return None


def first_at_hand(names: Sequence[str], folders: Sequence[Path], resolution: int) -> Found:
    """The first of these sets that is at hand, else the digits, enlarged to the resolution."""
    looked = ", ".join(str(folder) for folder in folders)
    missing: list[str] = []
    for name in names:
        options = locate(name, folders)
        if options is not None:
            return Found(name, options, _why(name, missing, looked))
        missing.append(name)
    return Found(DIGITS, digits(resolution), _why(DIGITS, missing, looked))


def digits(resolution: int) -> dict[str, Any]:
    """The digits that come with the project, enlarged to the resolution."""
    return {
        "path": "parquet",
        "data_files": str(ROOT / "data/digits.parquet"),
        "image_column": "image",
        "label_column": "label",
        "resolution": resolution,
        "channels": 1,
        "upscale": True,
        "horizontal_flip": False,
    }


def _why(name: str, missing: list[str], looked: str) -> str:
    if not missing:
        return f"{name} is at hand"
    return f"{name}, since {' and '.join(missing)} are not in any of {looked}"
