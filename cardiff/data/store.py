"""The decoded images of a data set as one uint8 array on the disk, built once and memory-mapped by every process."""

import errno
import hashlib
import html
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import pyarrow.compute as pc
from tqdm.auto import tqdm

from cardiff.caches import lock_of, remove_unfinished
from cardiff.config.sections import DataConfig
from cardiff.data.decode import UnreadableImage, decode_image, name_of_row
from cardiff.data.sources import load_source, source_fingerprint
from cardiff.errors import UserError
from cardiff.files import written_aside
from cardiff.integrity import find_damage, read_json, write_checksums

logger = logging.getLogger(__name__)

# Increase it if the same data and settings decode to different pixels, or the file format changes.
STORE_VERSION = 2
CHUNK = 32  # rows per task
ATTEMPTS = 3
"""Attempts to build a store if the cache is cleared in the meantime."""


@dataclass
class ImageStore:
    """A built store; see `open_store`."""

    folder: Path
    images: np.memmap
    """uint8 (N, C, H, W), read-only."""
    labels: np.ndarray | None
    """int64 (N,), or None if the data set has no labels. -1 means no label, which a conditional store refuses."""
    class_names: list[str]
    """Empty without labels."""
    skipped: list[dict]
    """The unreadable images that were skipped: row, name and reason of each."""

    @property
    def key(self) -> str:
        """The digest of the data and the preprocessing; also the name of the folder."""
        return self.folder.name

    def __len__(self) -> int:
        return len(self.images)

    def _repr_html_(self) -> str:
        """What a notebook shows: how many images there are, of which size, and how many of each class."""
        channels, height, width = self.images.shape[1:]
        head = f"{len(self):,} images of {height}×{width} pixels, channels: {channels}"
        if self.labels is None:
            return f"<b>{head}</b>"
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{count:,}</td></tr>" for name, count in zip(self.class_names, counts)
        )
        return f"<b>{head}</b><table>{rows}</table>"

    def __reduce__(self) -> tuple:
        # Pickling a memmap would copy every image into each worker process that is not forked.
        return _read, (self.folder,)


def open_store(config: DataConfig, conditional: bool) -> ImageStore:
    """Opens the decoded images of `config`, decoding them first if no earlier run has.

    The store is a folder in the cache named by a digest of the data and the preprocessing. One process builds it with
    all cores while the others wait; an interrupted build is discarded.

    Args:
        config: The data section. `config.streaming` must be off.
        conditional: Whether every image needs a label and every class an image.

    Returns:
        The store: N images (N, C, H, W), their labels and the class names.

    Raises:
        UserError: The data cannot be used, or the cache cannot be written.
        UnreadableImage: An image is unreadable and `config.on_error` is "raise".
    """
    assert not config.streaming, "a stream has no store"
    dataset = load_source(config, conditional)
    settings = _settings(config)
    key = hashlib.sha256(
        json.dumps([STORE_VERSION, source_fingerprint(config, dataset), settings]).encode()
    ).hexdigest()[:32]

    cache = cache_root(config)
    folder = cache / key
    store = _read_if_sound(folder)
    if store is None:
        if conditional:  # before hours of decoding, not after
            _check_labels(_labels(dataset, config), _class_names(dataset, config), [], config)
        try:
            store = _build_once(dataset, config, settings, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                size = len(dataset) * config.channels * config.resolution**2 / 2**30
                problem = f"is full ({size:.2f} GiB are needed)"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
                problem = "cannot be written"
            else:
                raise
            raise UserError(
                f"The cache {cache} {problem}: set data.cache_dir or CARDIFF_CACHE to another folder."
            ) from error

    # Both values of on_error share a store, so a store built with "skip" is checked again by a run with "raise".
    if store.skipped and config.on_error == "raise":
        raise UnreadableImage(store.skipped[0]["name"], store.skipped[0]["reason"])
    if conditional:
        _check_labels(store.labels, store.class_names, [entry["row"] for entry in store.skipped], config)
    return store


def _build_once(dataset: datasets.Dataset, config: DataConfig, settings: dict, folder: Path) -> ImageStore:
    """Build a store in one process while others wait for it, and retry if the cache is cleared in the meantime."""
    for attempt in range(ATTEMPTS):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder.parent)
            with lock_of(folder):
                store = _read_if_sound(folder)  # another process may have built it in the meantime
                if store is None:
                    _build(dataset, config, settings, folder)
                    store = _read(folder)
                return store
        except FileNotFoundError as error:
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"The cache {folder.parent} was cleared while images were being decoded into it: run the same "
                    "command again."
                ) from error
    raise AssertionError("the last attempt returns or raises")


def cache_root(config: DataConfig) -> Path:
    """Folder of the caches computed from data sets."""
    return Path(config.cache_dir or os.environ.get("CARDIFF_CACHE") or "~/.cache/cardiff").expanduser()


def _settings(config: DataConfig) -> dict:
    """The options that determine the content of the store, together with the data."""
    fields = ["image_column", "label_column", "resolution", "channels", "fit", "upscale", "crop_to_box"]
    if config.crop_to_box:
        fields += ["box_column", "box_margin"]
    if config.first_label:
        fields += ["first_label"]
    return {field: getattr(config, field) for field in fields}


def _read(folder: Path) -> ImageStore:
    """Maps the store in `folder`, which may be damaged in any way.

    Raises:
        OSError, ValueError, TypeError, KeyError, EOFError, MemoryError: The store is missing or damaged.
    """
    damage = find_damage(folder, remember=True)
    if damage is not None:
        raise UserError(f"{folder} is damaged: {damage}.")
    meta = read_json(folder / "meta.json")
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = None if meta["class_names"] is None else np.load(folder / "labels.npy")
    if list(images.shape) != meta["shape"] or (labels is not None and len(labels) != len(images)):
        raise UserError(f"{folder} does not contain the images that its meta.json describes.")
    if images.dtype != np.uint8 or (labels is not None and labels.dtype != np.int64):
        raise UserError(f"{folder} does not contain uint8 images and int64 labels.")
    if not all(type(name) is str for name in meta["class_names"] or []) or not all(
        {"row", "name", "reason"} <= dict(entry).keys() for entry in meta["skipped"]
    ):
        raise UserError(f"{folder}/meta.json was not written by Cardiff.")
    return ImageStore(folder, images, labels, meta["class_names"] or [], meta["skipped"])


def _read_if_sound(folder: Path) -> ImageStore | None:
    try:
        return _read(folder)
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError):
        return None


def _build(dataset: datasets.Dataset, config: DataConfig, settings: dict, folder: Path) -> None:
    """Decodes every row into `folder`, which is created atomically. The caller holds the lock."""
    if folder.exists():
        logger.warning("The image store %s is damaged or was built by an earlier version, and is built again.", folder)
    # To a separate path for each process, since the lock can be deleted together with the cache.
    with written_aside(folder, per_process=True) as aside:
        aside.mkdir()
        kept, skipped = _write_images(dataset, config, aside / "images.npy")
        if not kept:
            reason = skipped[0]["reason"]
            raise UserError(f"No image of {config.path} can be read (the first: {reason}): check the files.")
        labels = _labels(dataset, config)
        if labels is not None:
            np.save(aside / "labels.npy", labels[kept])
        meta = {
            "version": STORE_VERSION,
            "shape": [len(kept), config.channels, config.resolution, config.resolution],
            "class_names": _class_names(dataset, config),
            "skipped": skipped,
            "settings": settings,
        }
        (aside / "meta.json").write_text(json.dumps(meta, indent=1))
        write_checksums(aside)
    if skipped:
        first = ", ".join(entry["name"] for entry in skipped[:3])
        logger.warning(
            "%d of %d images of %s cannot be read and are skipped, first %s; all are listed in %s.",
            *(len(skipped), len(dataset), config.path, first, folder / "meta.json"),
        )


def _write_images(dataset: datasets.Dataset, config: DataConfig, path: Path) -> tuple[list[int], list[dict]]:
    """Writes images.npy in row order; returns the rows kept and a record of each one skipped.

    The file is written sequentially, since writing to a memmap on a full disk kills the process instead of raising.
    """
    kept: list[int] = []
    skipped: list[dict] = []
    threads = os.cpu_count() or 1
    with open(path, "wb") as file, ThreadPoolExecutor(threads) as pool:
        _write_header(file, len(dataset), config)
        start_of_data = file.tell()
        starts = iter(range(0, len(dataset), CHUNK))
        # PIL decodes and resizes without the GIL, so threads scale; the number of pending chunks is bounded.
        pending = [pool.submit(_decode_chunk, dataset, config, start) for start in islice(starts, 4 * threads)]
        with tqdm(total=len(dataset), desc="Decoding images", unit="image") as bar:
            try:
                while pending:
                    images, rows, failed = pending.pop(0).result()
                    pending += [pool.submit(_decode_chunk, dataset, config, start) for start in islice(starts, 1)]
                    for image in images:
                        file.write(image.data)
                    kept += rows
                    skipped += failed
                    bar.update(len(rows) + len(failed))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        # numpy pads the header, so the number of rows can be changed in place.
        file.seek(0)
        _write_header(file, len(kept), config)
        assert file.tell() == start_of_data
    return kept, skipped


def _write_header(file: BinaryIO, rows: int, config: DataConfig) -> None:
    shape = (rows, config.channels, config.resolution, config.resolution)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _decode_chunk(
    dataset: datasets.Dataset, config: DataConfig, start: int
) -> tuple[list[np.ndarray], list[int], list[dict]]:
    """Decodes CHUNK rows from `start`: the images [(C, H, W)], their rows, and a record of each row skipped."""
    rows = dataset[start : start + CHUNK]
    images, kept, skipped = [], [], []
    for row, raw in enumerate(rows[config.image_column], start):
        name = name_of_row(raw, row, config.split)
        box = rows[config.box_column][row - start] if config.crop_to_box else None
        try:
            images.append(decode_image(raw, config, box, name))
            kept.append(row)
        except UnreadableImage as error:
            if config.on_error == "raise":
                raise
            skipped.append({"row": row, "name": name, "reason": error.reason})
    return images, kept, skipped


def _labels(dataset: datasets.Dataset, config: DataConfig) -> np.ndarray | None:
    """int64 (N,) with -1 for none, or None without a label column."""
    if config.label_column not in dataset.features:
        return None
    column = dataset.select_columns([config.label_column]).with_format("arrow")[:][config.label_column]
    return pc.fill_null(column, -1).to_numpy().astype(np.int64)


def _class_names(dataset: datasets.Dataset, config: DataConfig) -> list[str] | None:
    return dataset.features[config.label_column].names if config.label_column in dataset.features else None


def _check_labels(
    labels: np.ndarray | None, class_names: list[str] | None, skipped_rows: list[int], config: DataConfig
) -> None:
    """Refuse images without a class and classes without an image."""
    assert labels is not None and class_names is not None  # load_source has checked this
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        row = np.delete(np.arange(len(labels) + len(skipped_rows)), skipped_rows)[wrong[0]]
        first = config.first_label
        raise UserError(
            f"{len(wrong)} rows of split {config.split!r} of {config.path} have no valid label, first row {row} with "
            f"{first + labels[wrong[0]]} outside {first} to {first + len(class_names) - 1}: correct or remove them."
        )
    empty = [class_names[i] for i in np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)]
    if empty:
        names = ", ".join(repr(name) for name in empty[:3]) + (", …" if len(empty) > 3 else "")
        raise UserError(
            f"{len(empty)} of the {len(class_names)} classes of {config.path} have no image in split "
            f"{config.split!r} ({names}): choose a split with all classes, or remove these from the labels."
        )
