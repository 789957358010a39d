"""Chooses the images in each batch, as a pure function of (seed, step).

Samples are numbered n = step · batch_size + position. Sample n is image n mod N of epoch n // N's permutation of the N
training rows, so a batch can span two epochs, and every batch has the same size.
"""

import copy
import hashlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cardiff.config.sections import DataConfig
from cardiff.data.store import ImageStore, open_store
from cardiff.data.stream import ImageStream
from cardiff.diffusion.randomness import HELD_OUT, ORDER, numpy_generator
from cardiff.errors import UserError


def open_data(config: DataConfig, *, conditional: bool, seed: int) -> ImageStore | ImageStream:
    """Open the images of a run: as a decoded store, or as a stream if `data.streaming` is set."""
    return ImageStream(config, seed, conditional) if config.streaming else open_store(config, conditional)


def split_rows(
    data: ImageStore | ImageStream, validation_fraction: float, seed: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Training and validation rows, in ascending order; for a stream, None and no rows.

    Raises:
        UserError: The validation fraction leaves no images to train on.
    """
    if isinstance(data, ImageStream):
        assert validation_fraction == 0, "a stream has no rows to set aside"
        return None, np.arange(0)
    count = max(1, round(validation_fraction * len(data))) if validation_fraction else 0
    if count >= len(data):
        raise UserError(
            f"train.validation_fraction is {validation_fraction}, which leaves none of {len(data)} images to train "
            "on: lower it."
        )
    order = numpy_generator(seed, HELD_OUT).permutation(len(data))
    return np.sort(order[count:]), np.sort(order[:count])


COMPARED = 10_000
"""Number of images in the digest of a store, evenly spaced: reading all of them could take minutes."""
FIRST = 64
"""Number of examples in the digest of a stream."""


def identify(data: ImageStore | ImageStream, validation_rows: np.ndarray, labelled: bool) -> dict[str, str]:
    """Digests by which a resumed run recognises its data, independent of paths and cache names.

    Args:
        data: The images of the run.
        validation_rows: Rows that are never trained on.
        labelled: Whether to include the labels.

    Returns:
        For a stream, `stream`: a digest of its first examples. For a store, `images`: a digest of the number of
        images, up to COMPARED of them and all labels; and `held_out`: a digest of all validation images in order.
        (The name `held_out` is kept for the checkpoints of older runs.)
    """
    if isinstance(data, ImageStream):
        return {"stream": _digest_of_stream(data, labelled)}
    rows = np.linspace(0, len(data) - 1, min(len(data), COMPARED)).round().astype(int)
    digest = _digest_of_rows(data, rows)
    digest.update(np.int64(len(data)).tobytes())
    if labelled:
        digest.update(np.ascontiguousarray(data.labels).data)
    return {"images": digest.hexdigest(), "held_out": _digest_of_rows(data, validation_rows).hexdigest()}


def _digest_of_rows(data: ImageStore, rows: np.ndarray) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for part in np.array_split(rows, max(1, len(rows) // 256)):
        digest.update(np.ascontiguousarray(data.images[part]).data)
    return digest


def _digest_of_stream(data: ImageStream, labelled: bool) -> str:
    stream = copy.deepcopy(data.dataset)  # so that the original stays at its beginning
    digest = hashlib.sha256()
    for example in islice(stream, FIRST):
        image = example[data.config.image_column] or {"bytes": None, "path": None}
        content = image["bytes"] or image["path"]
        if isinstance(content, str) and Path(content).is_file():
            content = Path(content).read_bytes()
        digest.update(repr((content, example[data.config.label_column] if labelled else None)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class BatchPlan:
    """What a process needs to build its share of every global batch."""

    seed: int
    batch_size: int
    """Images in the global batch."""
    positions: range
    """The positions in the global batch that belong to this process."""


class StoreBatches(Dataset):
    """Item `step` is this process's share of that step's batch, from all or some rows of a decoded store."""

    def __init__(self, store: ImageStore, plan: BatchPlan, rows: np.ndarray | None = None):
        self.store, self.plan = store, plan
        self.rows = np.arange(len(store)) if rows is None else rows
        self._order = lru_cache(maxsize=2)(self._new_order)  # a batch can span two epochs

    def _new_order(self, epoch: int) -> np.ndarray:
        return self.rows[numpy_generator(self.plan.seed, ORDER, epoch).permutation(len(self.rows))]

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        first = step * self.plan.batch_size
        n = np.arange(first + self.plan.positions.start, first + self.plan.positions.stop)
        epochs, places = np.divmod(n, len(self.rows))
        rows = np.concatenate([self._order(int(e))[places[epochs == e]] for e in np.unique(epochs)])
        batch = {"images": torch.from_numpy(self.store.images[rows])}
        if self.store.labels is not None:
            batch["labels"] = torch.from_numpy(self.store.labels[rows])
        return batch

    def __getstate__(self) -> dict:
        # Without the cached permutations.
        return {"store": self.store, "plan": self.plan, "rows": self.rows}

    def __setstate__(self, state: dict) -> None:
        StoreBatches.__init__(self, **state)


class StreamBatches(IterableDataset):
    """The same for a stream; `stream` in each batch is the position of the stream after it."""

    def __init__(self, stream: ImageStream, plan: BatchPlan, steps: range, state: dict | None):
        self.stream, self.plan, self.steps, self.state = stream, plan, steps, state

    def __iter__(self) -> Iterator[dict]:
        shares = self.stream.batches(self.plan.batch_size, self.plan.positions, state=self.state)
        for images, labels, state in islice(shares, len(self.steps)):
            batch = {"images": torch.from_numpy(images), "stream": state}
            if labels is not None:
                batch["labels"] = torch.from_numpy(labels)
            yield batch


def batch_loader(
    source: ImageStore | ImageStream,
    plan: BatchPlan,
    steps: range,
    *,
    num_workers: int,
    pin_memory: bool,
    rows: np.ndarray | None = None,
    stream_state: dict | None = None,
) -> DataLoader:
    """A loader for the batches of these steps, from a stream, all rows of a store, or the given rows."""
    batches: StreamBatches | StoreBatches
    sampler: range | None
    if isinstance(source, ImageStream):
        batches, sampler = StreamBatches(source, plan, steps, stream_state), None
        num_workers = min(num_workers, 1)  # one reader, since the stream has a single position
    else:
        batches, sampler = StoreBatches(source, plan, rows), steps
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer,
    )


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Ignore Ctrl-C and a batch system's SIGTERM, which reach the workers too, so that the last step can finish."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
