"""A folder of images as arrays, with what the folder says of their classes and of how they were made."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cardiff.data.decode import UnreadableImage, open_picture
from cardiff.data.folders import first, read_image_folder
from cardiff.distributed import this_process
from cardiff.errors import UserError

logger = logging.getLogger(__name__)

# What a line of a manifest says of its own image alone.
OF_ONE = ("file", "index", "seed", "label", "name", "evaluations")


@dataclass(frozen=True)
class ImageSet:
    """Images of one size."""

    images: np.ndarray
    """uint8 (N, C, H, W); one channel if all of them are grey."""
    labels: np.ndarray | None
    """int64 (N,), the classes asked for, -1 for images beside the class folders; None if the folder does not say."""
    class_names: dict[int, str] | None
    """Names that the folder has for the labels: of its subfolders, or of the model's classes in a manifest."""
    names: list[str]
    """Files, relative to the folder."""
    protocol: dict
    """What a manifest says of how all of them were made."""
    evaluations: dict[str, float] | None
    """Network evaluations an image, on average, if a manifest says."""

    def of_classes(self, class_names: list[str]) -> "ImageSet":
        """The same with labels that stand for the classes of a data set, or without if images have none.

        Raises:
            UserError: A class of the folder is none of the data's.
        """
        if self.labels is None or self.class_names is None or not class_names:
            return replace(self, labels=None, class_names=None)
        stray = [self.names[i] for i in np.flatnonzero(self.labels < 0)]
        if stray:
            if this_process().is_main_process:
                logger.warning(
                    "%d images lie beside the class folders, first %s: all are measured as images of no known class.",
                    *(len(stray), first(stray)),
                )
            return replace(self, labels=None, class_names=None)
        unknown = [name for name in self.class_names.values() if name not in class_names]
        if unknown:
            raise UserError(
                f"The images have the class {unknown[0]!r}, which is not in the data: rename the subfolder, or give "
                "the data that the model was trained on."
            )
        places = {label: class_names.index(name) for label, name in self.class_names.items()}
        return replace(self, labels=np.array([places[label] for label in self.labels]), class_names=None)


def read_folder(folder: Path) -> ImageSet:
    """Read a folder that sample.py wrote, one with a subfolder a class, or a flat one.

    Raises:
        UserError: Not such a folder, or images that are missing, unreadable or of several sizes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one with images.")
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        return _read_sampled(folder, manifest)
    if (folder / "options.json").is_file():
        raise UserError(f"{folder} was not drawn to its end: run the same sample.py command again.")
    found = read_image_folder(folder)
    found.warn()
    if found.splits:
        raise UserError(f"{folder} holds the splits {', '.join(found.splits)}: name one of these subfolders.")
    if not found.pictures:
        raise UserError(f"{folder} holds no images.")
    labels = class_names = None
    if found.class_names:
        class_names = dict(enumerate(found.class_names))
        numbers: dict[str | None, int] = {name: label for label, name in class_names.items()}
        labels = np.array([numbers.get(found.class_of(name), -1) for name in found.pictures])
    images = _read_images([folder / name for name in found.pictures])
    return ImageSet(images, labels, class_names, found.pictures, {}, None)


def _read_sampled(folder: Path, manifest: Path) -> ImageSet:
    """The images that a manifest lists."""
    try:
        entries = [json.loads(line) for line in manifest.read_text().splitlines()]
        names = [entry["file"] for entry in entries]
        labels = [entry["label"] for entry in entries]
        class_names = {entry["label"]: entry["name"] for entry in entries if isinstance(entry["label"], int)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest} is not a manifest of sample.py ({error!r}): draw the images again.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]} of its manifest: run the same sample.py command again.")
    if not names:
        raise UserError(f"{manifest} lists no images.")
    known = all(isinstance(label, int) for label in labels)  # none and mixtures are no class
    first = entries[0]
    shared = {key: first[key] for key in first if key not in OF_ONE and all(e.get(key) == first[key] for e in entries)}
    counts = [entry["evaluations"] for entry in entries if "evaluations" in entry]
    evaluations = {name: float(np.mean([count[name] for count in counts])) for name in counts[0]} if counts else None
    images = _read_images([folder / name for name in names])
    if not known:
        return ImageSet(images, None, None, names, shared, evaluations)
    return ImageSet(images, np.array(labels), class_names, names, shared, evaluations)


def _read_images(files: list[Path]) -> np.ndarray:
    """uint8 (N, C, H, W)."""
    with ThreadPoolExecutor() as pool:
        try:
            pictures = list(pool.map(_read_image, files))
        except UnreadableImage as error:
            raise UserError(error.without_option) from error
    for file, picture in zip(files, pictures):
        if picture.size != pictures[0].size:
            sizes = [f"{name.name} has {p.width}x{p.height}" for name, p in ((files[0], pictures[0]), (file, picture))]
            raise UserError(f"The images of {files[0].parent} have several sizes ({', '.join(sizes)}): resize them.")
    if pictures[0].width != pictures[0].height:
        raise UserError(
            f"{files[0]} has {pictures[0].width}x{pictures[0].height} pixels: only square images are read."
        )
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    arrays = [np.asarray(picture.convert(mode)).reshape(*picture.size[::-1], -1) for picture in pictures]
    return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))


def _read_image(file: Path) -> Image.Image:
    return open_picture(file, str(file))
