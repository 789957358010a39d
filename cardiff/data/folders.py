"""Folders of images, for training and measuring alike: the first level is the class, everything below belongs to it.

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
"""Names of subfolders that are splits if all are, and the splits that they stand for: train, validation or test."""
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
"""What operating systems leave in folders, in lower case, besides hidden files."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".parquet", ".arrow")
UNLABELLED = "train without labels with train_unconditional.py"


def natural_key(text: str) -> tuple[str, str]:
    """Sorts names as people count: digits compare as numbers, other text by code point, ties by the plain text."""

    def comparable(digits: re.Match) -> str:
        number = digits[0].lstrip("0")
        return f"{len(number):03}{number}"  # of two numbers the longer is the larger

    return re.sub("[0-9]+", comparable, text), text


@cache
def picture_endings() -> frozenset[str]:
    """Endings, in lower case, of the formats that Pillow opens here."""
    endings = Image.registered_extensions()  # loads all plugins; in lower case
    formats = {"MPO"}  # opened as the JPEG that it begins with
    for name, (factory, _) in Image.OPEN.items():
        # Stubs only identify a file, and so does the reader of MPEG videos.
        if not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)) and name != "MPEG":
            formats.add(name)
    return frozenset(ending for ending, name in endings.items() if name in formats)


@dataclass(frozen=True)
class ImageFolder:
    """What a folder of images holds; see `read_image_folder`."""

    path: Path
    pictures: list[str]
    """Files relative to the folder, with "/", in natural order."""
    splits: list[str]
    """Subfolders that are splits; empty if the subfolders are classes or there are none."""
    left_out: dict[str, list[str]]
    """Why files are not read -> those files, and those folders that hold no picture."""

    @property
    def class_names(self) -> list[str]:
        """In natural order, those of all splits."""
        return sorted(
            {name for picture in self.pictures if (name := self.class_of(picture)) is not None}, key=natural_key
        )

    @property
    def others(self) -> list[str]:
        """Everything that is left out."""
        return [name for names in self.left_out.values() for name in names]

    @property
    def has_metadata(self) -> bool:
        """Whether a table says more of the pictures than their folders do; `datasets` reads it."""
        return any(os.path.basename(name) in METADATA for name in self.others)

    @property
    def has_only_data(self) -> bool:
        """Whether there are no pictures, but files in which `datasets` would find some."""
        return not self.pictures and any(_is_data(name) for name in self.others)

    def class_of(self, picture: str) -> str | None:
        """The folder of the first level (below the split) that holds the picture, or None."""
        parts = picture.split("/")[1 if self.splits else 0 :]
        return parts[0] if len(parts) > 1 else None

    def warn(self) -> None:
        """Log what is left out, and whether the subfolders are splits."""
        if not this_process().is_main_process:
            return
        if self.splits:
            logger.warning(
                "The subfolders of %s are read as splits (%s), since all have names of splits; the folders below them "
                "are the classes.",
                *(self.path, ", ".join(self.splits)),
            )
        named = [name for name in self.class_names if name.lower() in SPLITS]
        if not self.splits and len({SPLITS[name.lower()] for name in named}) > 1:
            logger.warning(
                "The subfolders %s of %s are classes, not splits, since other subfolders hold pictures too.",
                *(", ".join(named), self.path),
            )
        for reason, names in self.left_out.items():
            logger.warning("Left out of %s: %d %s, first %s.", self.path, len(names), reason, first(names))


def read_image_folder(path: Path) -> ImageFolder:
    """List a folder of images, following links.

    The folder's subfolders are its classes, or its splits (with the classes below them) if every subfolder that holds
    pictures is called train, test, val or the like. Hidden files and what operating systems leave behind are passed
    over; every other file is a picture, by its ending, or left out.

    Raises:
        UserError: A folder that cannot be listed, or the name of a picture that is not UTF-8.
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
    left_out[f"without the ending of a picture that can be read here ({kinds})"] = others
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
        split: A split, a part of one such as "train[90%:]", or several with "+". A folder without splits is "train".
        conditional: Whether every picture needs a class.

    Returns:
        A data set with the columns `image` (paths) and, if there are class folders, `label` (a ClassLabel; -1 for
        pictures beside them).

    Raises:
        UserError: In one sentence, for a folder, a split or classes that cannot be used.
    """
    tables = [name for name in folder.others if _ending(name) in TABLES]
    if folder.pictures and tables:
        raise UserError(
            f"data.path {folder.path} holds both pictures, first {first(folder.pictures)}, and data files, first "
            f"{first(tables)}: move one kind away, or set data.path to {_ending(tables[0])[1:]} and data.data_files "
            "to the data files."
        )
    if not folder.pictures:
        listed = "".join(f"; {len(n)} {reason}, first {first(n)}" for reason, n in folder.left_out.items())
        raise UserError(f"data.path {folder.path} has no images or data files{listed}: put some in or correct it.")
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
    """The first of some names, for a message."""
    return ", ".join(_shown(name) for name in names[:3])


def _walk(root: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    """Every name in a folder, relative to the root, and what it is: "file", "folder", or why it cannot be read."""
    folder = os.path.join(root, below)
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{_shown(folder)} cannot be read ({error.strerror}): correct its permissions or move it away."
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
                    yield name, "leading back to a folder above"
                else:
                    yield name, "folder"
                    yield from _walk(root, name, above)
                continue
            is_file = entry.is_file()
        except OSError:
            is_file = False
        yield name, "file" if is_file else "neither a file nor a folder that can be reached"


def _choose(folder: ImageFolder, split: str) -> list[str]:
    """The pictures of `data.split`."""
    if folder.splits:
        parts = {name: [file for file in folder.pictures if file.startswith(f"{name}/")] for name in folder.splits}
        meant = Counter(SPLITS[name.lower()] for name in folder.splits)
        # As `datasets` calls them, where that is the name of one folder.
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
    """Refuse pictures without a class, and classes among which there is nothing to choose."""
    names = folder.class_names
    if not names:
        raise UserError(
            f"The pictures of data.path {folder.path} are not in subfolders, whose names would be their classes: sort "
            f"them into one subfolder a class, or {UNLABELLED}."
        )
    stray = [picture for picture in pictures if folder.class_of(picture) is None]
    if stray:
        raise UserError(
            f"{len(stray)} pictures of data.path {folder.path} are beside the subfolders that are its classes, first "
            f"{first(stray)}: move them into one or away, or {UNLABELLED}."
        )
    if len(names) == 1:
        raise UserError(
            f"All pictures of data.path {folder.path} are in one subfolder, {names[0]!r}, and so of one class: give "
            f"the folder whose subfolders are the classes, or {UNLABELLED}."
        )


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_data(name: str) -> bool:
    """Whether `datasets` would find images in such a file; it also reads texts and formats of its own."""
    module, _ = _EXTENSION_TO_MODULE.get(_ending(name), ("", {}))
    return module not in ("", "text", "harbor", "imagefolder") or _ending(name) == ".zip"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """A name of the file system as text; bytes that are not UTF-8 as in \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
