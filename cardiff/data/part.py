"""A random subset of a stream as arrays, for what needs all its images in memory, such as evaluation."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from cardiff.config.sections import DataConfig
from cardiff.data.decode import UnreadableImage, decode_image, name_of_row
from cardiff.data.sources import empty_error
from cardiff.data.stream import ImageStream
from cardiff.errors import UserError
from cardiff.progress import shown

CHUNK = 256  # rows that are decoded together


def random_part(config: DataConfig, most: int) -> tuple[np.ndarray, np.ndarray | None, list[str], int]:
    """A uniformly random subset of up to `most` images of a stream; all of them, in order, if there are no more.

    The stream is read once to its end, but little more than what is returned is decoded or kept: algorithm R of
    Vitter, "Random sampling with a reservoir" (1985). The subset is the same every time and in every process.

    Args:
        config: The data section, with `streaming` on. With `on_error: skip`, unreadable images are left out.
        most: Maximum number of images.

    Returns:
        images uint8 (n, C, H, W); labels int64 (n,) with -1 for none, or None if the data set has none; the class
        names, empty without labels; and the number of images in the stream.

    Raises:
        UnreadableImage: An image of the subset is unreadable and `data.on_error` is "raise".
        UserError: The data cannot be loaded, or the stream is empty.
    """
    stream = ImageStream(config, seed=0, conditional=False)
    rng = np.random.default_rng(0)
    images = np.empty((most, config.channels, config.resolution, config.resolution), np.uint8)
    labels, readable = np.full(most, -1), np.zeros(most, bool)

    def decode(place: tuple[int, int, dict]) -> None:
        slot, row, example = place
        raw = example[config.image_column]
        name = name_of_row(raw, row, config.split)
        label = example[config.label_column] if stream.class_names else None
        labels[slot] = -1 if label is None else label
        try:
            images[slot] = decode_image(raw, config, example[config.box_column] if config.crop_to_box else None, name)
            readable[slot] = True
        except UnreadableImage:
            if config.on_error == "raise":
                raise
            readable[slot] = False

    examples, total = iter(stream.dataset), 0
    chunks = iter(lambda: list(islice(examples, CHUNK)), [])
    with ThreadPoolExecutor() as pool:
        for chunk in shown(chunks, "reading the stream"):
            chosen = {}  # the last row for a slot wins
            for row, example in enumerate(chunk, total):
                slot = row if row < most else int(rng.integers(row + 1))
                if slot < most:
                    chosen[slot] = (slot, row, example)
            list(pool.map(decode, chosen.values()))
            total += len(chunk)
    if total == 0:
        raise empty_error(config)
    rows: slice | np.ndarray = slice(min(most, total))
    if not readable[rows].all():
        rows = np.flatnonzero(readable)
    if not len(images[rows]):
        raise UserError(f"No image of {config.path} can be read: check the files.")
    return images[rows], labels[rows] if stream.class_names else None, stream.class_names, total
