"""Folders of images, for training and evaluation: each subfolder is a class, with everything below it.

cars/
  Audi A4/front.jpg               class "Audi A4"
  Audi A4/2020/1.png              class "Audi A4"
  train/7.webp                    class "train", since not all subfolders are names of splits
  overview.png                    no class
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import datasets
from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules import _EXTENSION_TO_MODULE
from PIL import Image, ImageFile

from cardiff.distributed import this_process
from cardiff.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
"""Folder names read as splits if all subfolders have such names -> the split: train, validation or test."""
LITTER = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
)
"""Files and folders that operating systems create, in lower case, other than hidden ones."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".parquet", ".arrow")
UNLABELLED = "train without labels with train_unconditional.py"


def natural_key(text: str) -> tuple[str, str]:
    """Sort key for natural order: digits compare as numbers, other text by code point, ties by the plain text."""

    def comparable(digits: re.Match) -> str:
        number = digits[0].lstrip("0")
        return f"{len(number):03}{number}"  # the number with more digits is larger

    return re.sub("[0-9]+", comparable, text), text


@cache
def picture_endings() -> frozenset[str]:
    """File extensions, in lower case, of the formats that this installation of Pillow opens."""
    endings = Image.registered_extensions()  # loads all plugins; in lower case
    formats = {"MPO"}  # opened as JPEG
    for name, (factory, _) in Image.OPEN.items():
        # Stubs and the MPEG reader only identify a file.
        if not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)) and name != "MPEG":
            formats.add(name)
    return frozenset(ending for ending, name in endings.items() if name in formats)


@dataclass(frozen=True)
class ImageFolder:
    """The content of a folder of images; see `read_image_folder`."""

    path: Path
    pictures: list[str]
    """Files relative to the folder, with "/", in natural order."""
    splits: list[str]
    """Subfolders that are splits; empty if the subfolders are classes or there are none."""
    left_out: dict[str, list[str]]
    """Reason -> files that are ignored for it, and folders without pictures."""

    @property
    def class_names(self) -> list[str]:
        """Class names of all splits, in natural order."""
        return sorted(
            {name for picture in self.pictures if (name := self.class_of(picture)) is not None}, key=natural_key
        )

    @property
    def others(self) -> list[str]:
        """Everything that is ignored."""
        return [name for names in self.left_out.values() for name in names]

    @property
    def has_metadata(self) -> bool:
        """Whether there is a metadata table, which `datasets` reads."""
        return any(os.path.basename(name) in METADATA for name in self.others)

    @property
    def has_only_data(self) -> bool:
        """Whether there are no pictures, but other files from which `datasets` can read images."""
        return not self.pictures and any(_is_data(name) for name in self.others)

    def class_of(self, picture: str) -> str | None:
        """The class of a picture: its first-level folder (below the split), or None."""
        parts = picture.split("/")[1 if self.splits else 0 :]
        return parts[0] if len(parts) > 1 else None

    def warn(self) -> None:
        """Log what is ignored, and whether the subfolders are splits."""
        if not this_process().is_main_process:
            return
        if self.splits:
            logger.warning(
                "The subfolders of %s are read as splits (%s), since they all have the names of splits; the folders "
                "below them are the classes.",
                *(self.path, ", ".join(self.splits)),
            )
        named = [name for name in self.class_names if name.lower() in SPLITS]
        if not self.splits and len({SPLITS[name.lower()] for name in named}) > 1:
            logger.warning(
                "The subfolders %s of %s are read as classes, not splits, since other subfolders have pictures too.",
                *(", ".join(named), self.path),
            )
        for reason, names in self.left_out.items():
            logger.warning("Ignored in %s: %d %s, first %s.", self.path, len(names), reason, first(names))


def read_image_folder(path: Path) -> ImageFolder:
    """List a folder of images, following links.

    The subfolders are the classes, or the splits (with the classes below them) if every subfolder with pictures is
    called train, test, val or the like. Hidden files and files of operating systems are silently ignored; every other
    file is a picture if it has the extension of one, and otherwise ignored with a warning.

    Raises:
        UserError: A folder cannot be listed, or the name of a picture is not UTF-8.
    """
    found = list(_walk(str(path), "", ()))
    pictures = [name for name, kind in found if kind == "file" and _ending(name) in picture_endings()]
    for name in pictures:
        if not _is_utf8(os.path.join(path, name)):
            raise UserError(f"The name of {_shown(os.path.join(path, name))} is not UTF-8: rename it.")
    pictures.sort(key=lambda name: tuple(natural_key(part) for part in name.split("/")))

    firsts = sorted({name.split("/")[0] for name in pictures if "/" in name}, key=natural_key)
    splits = firsts if all(name.lower() in SPLITS for name in firsts) else []
    left_out: dict[str, list[str]] = {}
    if splits:
        left_out["outside the splits"] = [name for name in pictures if "/" not in name]
        pictures = [name for name in pictures if "/" in name]
    others = [name for name, kind in found if kind == "file" and _ending(name) not in picture_endings()]
    counts = Counter(_ending(name) or "no ending" for name in others)
    kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))
    left_out[f"without the extension of a readable image format ({kinds})"] = others
    for reason in sorted({kind for _, kind in found} - {"file", "folder"}):
        left_out[reason] = [name for name, kind in found if kind == reason]

    level = 1 if splits else 0
    full = {"/".join(name.split("/")[: level + 1]) for name in pictures}
    folders = [name for name, kind in found if kind == "folder" and name.count("/") == level and name not in full]
    left_out["without a picture inside"] = [f"{name}/" for name in folders]
    left_out = {reason: sorted(names, key=natural_key) for reason, names in left_out.items() if names}
    return ImageFolder(path, pictures, splits, left_out)


def load_image_folder(folder: ImageFolder, split: str, conditional: bool) -> datasets.Dataset:
    """The pictures of one split of a folder, undecoded.

    Args:
        folder: The folder.
        split: A split, a slice of one such as "train[90%:]", or several joined by "+". A folder without splits is
            "train".
        conditional: Whether every picture needs a class.

    Returns:
        A data set with the columns `image` (paths) and, if there are class folders, `label` (a ClassLabel; -1 for
        pictures outside them).

    Raises:
        UserError: The folder, the split or the classes cannot be used.
    """
    tables = [name for name in folder.others if _ending(name) in TABLES]
    if folder.pictures and tables:
        raise UserError(
            f"data.path {folder.path} contains both pictures, first {first(folder.pictures)}, and data files, first "
            f"{first(tables)}: move one kind away, or set data.path to {_ending(tables[0])[1:]} and data.data_files "
            "to the data files."
        )
    if not folder.pictures:
        listed = "".join(f"; {len(n)} {reason}, first {first(n)}" for reason, n in folder.left_out.items())
        raise UserError(f"data.path {folder.path} has no images or data files{listed}: add some or correct the path.")
    folder.warn()

    pictures = _choose(folder, split)
    names = folder.class_names
    if conditional:
        _check_classes(folder, pictures)
    root = os.path.abspath(folder.path)
    columns: dict[str, list] = {"image": [os.path.join(root, name) for name in pictures]}
    features = {"image": datasets.Image(decode=False)}
    if names:
        numbers = {name: number for number, name in enumerate(names)}
        columns["label"] = [numbers.get(folder.class_of(picture) or "", -1) for picture in pictures]
        features["label"] = datasets.ClassLabel(names=names)
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def first(names: list[str]) -> str:
    """The first three names, for a message."""
    return ", ".join(_shown(name) for name in names[:3])


def _walk(root: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    """All names in a folder, relative to the root, each with "file", "folder", or the reason why it cannot be read."""
    folder = os.path.join(root, below)
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{_shown(folder)} cannot be read ({error.strerror}): correct its permissions or remove it."
        ) from error
    above = (*above, (status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LITTER:
            continue
        name = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir():
                status = entry.stat()
                if (status.st_dev, status.st_ino) in above:
                    yield name, "linking back to a parent folder"
                else:
                    yield name, "folder"
                    yield from _walk(root, name, above)
                continue
            is_file = entry.is_file()
        except OSError:
            is_file = False
        yield name, "file" if is_file else "neither an accessible file nor a folder"


def _choose(folder: ImageFolder, split: str) -> list[str]:
    """The pictures of `data.split`."""
    if folder.splits:
        parts = {name: [file for file in folder.pictures if file.startswith(f"{name}/")] for name in folder.splits}
        meant = Counter(SPLITS[name.lower()] for name in folder.splits)
        # Also by the name that `datasets` uses, if it stands for a single folder.
        for name in folder.splits:
            if meant[SPLITS[name.lower()]] == 1:
                parts.setdefault(SPLITS[name.lower()], parts[name])
    else:
        parts = {"train": folder.pictures}
    split = "+".join(folder.splits or parts) if split == "all" else split
    counts = {name: len(part) for name, part in parts.items()}
    try:
        spans = datasets.ReadInstruction.from_spec(split).to_absolute(counts)
    except ValueError as error:
        choices = ", ".join(parts) if folder.splits else "train, since its subfolders are not splits"
        raise UserError(f"data.split {split!r} is not a split of {folder.path}: it has {choices}.") from error
    return [picture for span in spans for picture in parts[span.splitname][span.from_ : span.to]]


def _check_classes(folder: ImageFolder, pictures: list[str]) -> None:
    """Refuse pictures without a class, and a single class."""
    names = folder.class_names
    if not names:
        raise UserError(
            f"The pictures of data.path {folder.path} are not in subfolders, which would be their classes: sort them "
            f"into one subfolder per class, or {UNLABELLED}."
        )
    stray = [picture for picture in pictures if folder.class_of(picture) is None]
    if stray:
        raise UserError(
            f"{len(stray)} pictures of data.path {folder.path} are not in any of the class subfolders, first "
            f"{first(stray)}: move or remove them, or {UNLABELLED}."
        )
    if len(names) == 1:
        raise UserError(
            f"All pictures of data.path {folder.path} are in one subfolder, {names[0]!r}, and so have the same class: "
            f"give the folder whose subfolders are the classes, or {UNLABELLED}."
        )


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_data(name: str) -> bool:
    """Whether `datasets` can read images from such a file; it also reads text and other formats."""
    module, _ = _EXTENSION_TO_MODULE.get(_ending(name), ("", {}))
    return module not in ("", "text", "harbor", "imagefolder") or _ending(name) == ".zip"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """A file name as text, with bytes that are not UTF-8 written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
