"""Images read through `datasets` streaming and decoded on the fly, in an order that every process can reproduce.

The stream is read in file order, in blocks of `data.shuffle_buffer` undecoded examples; block j of epoch e is
shuffled by its own generator, seeded with (seed, e, j). So a position in the stream is an epoch, a block and an
offset, and resuming there only requires reading that block again.
"""

import copy
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import datasets
import numpy as np

from cardiff.config.sections import DataConfig
from cardiff.data.decode import UnreadableImage, decode_image, name_of_row
from cardiff.data.sources import empty_error, load_source
from cardiff.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class _Block:
    epoch: int
    number: int
    source: dict
    """State of the `datasets` stream at the start of the block."""
    examples: list[tuple[int, dict]]
    """(row in the stream, undecoded example), in shuffled order."""


class ImageStream:
    """Batches of a data set too large to store decoded.

    A process holds up to two blocks of encoded images. With `data.on_error: skip`, an unreadable image is replaced by
    the nearest readable one before it in its shuffled block (cyclically). This depends only on the block, so it is the
    same in every process, for any number of processes, and after resuming.

    Args:
        config: The data section, with `streaming` on.
        seed: Seed of the shuffling.
        conditional: Whether labels are needed.

    Raises:
        UserError: The data cannot be loaded; see `load_source`.
    """

    def __init__(self, config: DataConfig, seed: int, conditional: bool) -> None:
        assert config.streaming
        self.config = config
        self.seed = seed
        self.conditional = conditional
        self.dataset = load_source(config, conditional)
        feature = self.dataset.features.get(config.label_column)
        self.class_names = feature.names if isinstance(feature, datasets.ClassLabel) else []
        self.skipped: dict[
            int, dict
        ] = {}  # row in the stream: {row, name, reason}, of the unreadable images met by this process

    def batches(
        self, batch_size: int, positions: range, state: dict | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None, dict]]:
        """Iterates over the stream endlessly, epoch after epoch.

        Every process reads all the encoded examples, so all agree on the order, but decodes only its own share.

        Args:
            batch_size: Examples in a global batch, which can span two epochs.
            positions: The positions in the global batch that this process decodes.
            state: The state that came with a batch, to continue after that batch; None for the beginning.

        Yields:
            images uint8 (b, C, H, W), labels int64 (b,) or None if the data set has none, and the state after the
            batch, a small dictionary that can be saved as JSON; b = len(positions).

        Raises:
            UnreadableImage: An image is unreadable and `data.on_error` is "raise".
            UserError: The stream is empty, a label is missing, or an image is too small.
        """
        assert len(positions) > 0 and min(positions) >= 0 and max(positions) < batch_size
        blocks = self._blocks(state)
        block = next(blocks)
        offset = state["offset"] if state else 0
        with ThreadPoolExecutor() as pool:
            while True:
                places: list[tuple[_Block, int]] = []  # of the global batch: (block, position in its order)
                while len(places) < batch_size:
                    if offset == len(block.examples):
                        block, offset = next(blocks), 0
                    end = min(len(block.examples), offset + batch_size - len(places))
                    places += [(block, position) for position in range(offset, end)]
                    offset = end
                decoded = list(pool.map(self._decode, [places[position] for position in positions]))
                images = np.stack([image for image, _ in decoded])  # (b, C, H, W)
                labels = np.array([label for _, label in decoded], dtype=np.int64) if self.class_names else None
                # If the batch ends its block, resuming reads the block again and finds it used up.
                after = {"epoch": block.epoch, "block": block.number, "offset": offset, "source": block.source}
                yield images, labels, after

    def _blocks(self, state: dict | None) -> Iterator[_Block]:
        stream = copy.deepcopy(self.dataset)  # so that this iterator has its own position
        beginning = stream.state_dict()
        epoch, number, source = (state["epoch"], state["block"], state["source"]) if state else (0, 0, beginning)
        while True:
            stream.load_state_dict(source)
            examples = iter(stream)
            while block := list(islice(examples, self.config.shuffle_buffer)):
                order = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, number])))
                first_row = number * self.config.shuffle_buffer
                shuffled = [(first_row + i, block[i]) for i in order.permutation(len(block)).tolist()]
                yield _Block(epoch, number, source, shuffled)
                number += 1
                source = stream.state_dict()
            if number == 0:
                raise empty_error(self.config)
            epoch, number, source = epoch + 1, 0, beginning

    def _decode(self, place: tuple[_Block, int]) -> tuple[np.ndarray, int]:
        """The image (C, H, W) and the label (-1 for none) at a position in a shuffled block."""
        config, (block, position) = self.config, place
        for back in range(len(block.examples)):
            row, example = block.examples[position - back]
            raw = example[config.image_column]
            name = name_of_row(raw, row, config.split)
            box = example[config.box_column] if config.crop_to_box else None
            label = example[config.label_column] if self.class_names else None
            label = -1 if label is None else label
            if self.conditional and not 0 <= label < len(self.class_names):
                first = config.first_label
                raise UserError(
                    f"{name} of {config.path} has the label {first + label}, outside {first} to "
                    f"{first + len(self.class_names) - 1}: correct or remove it."
                )
            try:
                return decode_image(raw, config, box, name), label
            except UnreadableImage as error:
                if config.on_error == "raise":
                    raise
                if row not in self.skipped:
                    self.skipped[row] = {"row": row, "name": name, "reason": error.reason}
                    logger.warning(
                        "%s cannot be read (%s) and is replaced by its predecessor; %d so far.",
                        *(name, error.reason, len(self.skipped)),
                    )
        raise UserError(f"Block {block.number} of {config.path} has no readable image: check the files.")
