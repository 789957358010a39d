"""A folder of images as arrays, with their classes and how they were drawn, if the folder says so."""

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
from cardiff.integrity import parse_json
from cardiff.sampling.folder import PNG_KEY

logger = logging.getLogger(__name__)

# Fields of a manifest that differ from image to image.
OF_ONE = ("file", "index", "seed", "label", "name", "evaluations")


@dataclass(frozen=True)
class ImageSet:
    """Images of one size."""

    images: np.ndarray
    """uint8 (N, C, H, W); one channel if all of them are grey."""
    labels: np.ndarray | None
    """int64 (N,), the requested classes, -1 for images outside the class folders; None if the folder has none."""
    class_names: dict[int, str] | None
    """Names that the folder has for the labels: of its subfolders, or of the model's classes in a manifest."""
    names: list[str]
    """Files, relative to the folder."""
    protocol: dict
    """How all of them were drawn, if a manifest says so."""
    evaluations: dict[str, float] | None
    """Mean network evaluations per image, if a manifest says so."""

    def of_classes(self, class_names: list[str]) -> "ImageSet":
        """The same images with the labels of a data set's classes, or without labels if some images have none.

        Raises:
            UserError: A class of the folder is not in the data.
        """
        if self.labels is None or self.class_names is None or not class_names:
            return replace(self, labels=None, class_names=None)
        stray = [self.names[i] for i in np.flatnonzero(self.labels < 0)]
        if stray:
            if this_process().is_main_process:
                logger.warning(
                    "%d images are outside the class folders, first %s: all images are measured without labels.",
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
        UserError: It is not such a folder, or images are missing, unreadable or of several sizes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a folder of images.")
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        return _read_sampled(folder, manifest)
    if (folder / "options.json").is_file():
        raise UserError(f"{folder} is incomplete: run the same sample.py command again to finish it.")
    found = read_image_folder(folder)
    found.warn()
    if found.splits:
        raise UserError(f"{folder} contains the splits {', '.join(found.splits)}: give one of these subfolders.")
    if not found.pictures:
        raise UserError(f"{folder} contains no images: give another folder.")
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
        lines = manifest.read_text(encoding="utf-8").splitlines()
        entries = [_entry(line, f"line {number}") for number, line in enumerate(lines, 1)]
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).partition(": copy")[0] if isinstance(error, UserError) else repr(error)
        raise UserError(
            f"{manifest} is not a manifest of sample.py ({reason}): run the same sample.py command again, or draw the "
            "images again."
        ) from error
    names = [entry["file"] for entry in entries]
    labels = [entry["label"] for entry in entries]
    class_names = {entry["label"]: entry["name"] for entry in entries if isinstance(entry["label"], int)}
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]} of its manifest: run the same sample.py command again.")
    if not names:
        raise UserError(f"{manifest} lists no images: draw them again.")
    if len(set(names)) < len(names):
        raise UserError(f"{manifest} lists an image twice: run the same sample.py command again.")
    for entry in entries:
        if _own_entry(folder / entry["file"]) not in (None, entry):
            raise UserError(
                f"{manifest} and the image {entry['file']} say different things: run the same sample.py command again."
            )
    known = all(isinstance(label, int) for label in labels)  # not for samples without a label or of a mixture
    first = entries[0]
    shared = {key: first[key] for key in first if key not in OF_ONE and all(e.get(key) == first[key] for e in entries)}
    counts = [entry["evaluations"] for entry in entries if "evaluations" in entry]
    if any(count.keys() != counts[0].keys() for count in counts):
        raise UserError(f"{manifest} counts the evaluations of different networks: draw the images again.")
    evaluations = {name: float(np.mean([count[name] for count in counts])) for name in counts[0]} if counts else None
    images = _read_images([folder / name for name in names])
    if not known:
        return ImageSet(images, None, None, names, shared, evaluations)
    return ImageSet(images, np.array(labels), class_names, names, shared, evaluations)


def _entry(line: str, what: str) -> dict:
    """A line of a manifest.

    Raises:
        UserError, KeyError, TypeError: It is none, or names a file that is not in the manifest's folder.
    """
    entry = parse_json(dict, line, what, infinite=True)
    label, name = entry["label"], entry.get("name")
    if Path(entry["file"]).name != entry["file"] or entry["file"].startswith("."):
        raise UserError(f"{what} names the file {entry['file'][:100]!r}")
    if type(label) not in (int, dict, type(None)) or not isinstance(name, str if type(label) is int else str | None):
        raise TypeError(f"{what} has a label of a wrong type")
    if not all(type(count) in (int, float) for count in dict(entry.get("evaluations", {})).values()):
        raise TypeError(f"{what} has evaluations of a wrong type")
    return entry


def _own_entry(file: Path) -> dict | None:
    """What an image itself says of how it was drawn; None if it was saved by another program since."""
    try:
        with Image.open(file) as image:
            text = image.info.get(PNG_KEY)
        return None if text is None else parse_json(dict, text, str(file), infinite=True)
    except Exception as error:  # Pillow's readers raise nearly every type on bad bytes
        raise UserError(f"{file} is damaged: run the same sample.py command again.") from error


def _read_images(files: list[Path]) -> np.ndarray:
    """uint8 (N, C, H, W)."""
    with ThreadPoolExecutor() as pool:
        try:
            pictures = list(pool.map(_read_image, files))
        except UnreadableImage as error:
            raise UserError(error.without_option) from error
        except BaseException:  # such as Ctrl-C
            pool.shutdown(cancel_futures=True)
            raise
    for file, picture in zip(files, pictures):
        if picture.size != pictures[0].size:
            sizes = [f"{name.name} has {p.width}x{p.height}" for name, p in ((files[0], pictures[0]), (file, picture))]
            raise UserError(f"The images of {files[0].parent} have several sizes ({', '.join(sizes)}): resize them.")
    if pictures[0].width != pictures[0].height:
        raise UserError(
            f"{files[0]} has {pictures[0].width}x{pictures[0].height} pixels, but images must be square: "
            "resize or crop them."
        )
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    arrays = [np.asarray(picture.convert(mode)).reshape(*picture.size[::-1], -1) for picture in pictures]
    return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))


def _read_image(file: Path) -> Image.Image:
    return open_picture(file, str(file))
