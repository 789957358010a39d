"""Which images make up the batch of a step: a pure function of (seed, step).

Samples are numbered n = step · batch_size + position. Sample n is image n mod N of epoch n // N's permutation of the N
rows to train on, so the epochs follow each other without a gap and every batch has the same size.
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
    """The images of a run: decoded into a store, or as a stream if `data.streaming` is set."""
    return ImageStream(config, seed, conditional) if config.streaming else open_store(config, conditional)


def split_rows(
    data: ImageStore | ImageStream, validation_fraction: float, seed: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Rows to train on and a share of rows to measure, in rising order; a stream has neither, so None and no rows.

    Raises:
        UserError: There are too few images to set some aside.
    """
    if isinstance(data, ImageStream):
        assert validation_fraction == 0, "a stream has no rows to set aside"
        return None, np.arange(0)
    count = max(1, round(validation_fraction * len(data))) if validation_fraction else 0
    if count >= len(data):
        raise UserError(
            f"train.validation_fraction is {validation_fraction}, which leaves none of {len(data)} images to train on."
        )
    order = numpy_generator(seed, HELD_OUT).permutation(len(data))
    return np.sort(order[count:]), np.sort(order[:count])


COMPARED = 10_000
"""Images of a store by which its data is recognized, spread evenly over it: reading all could take minutes."""
FIRST = 64
"""Examples of a stream by which it is recognized."""


def identify(data: ImageStore | ImageStream, validation_rows: np.ndarray, labelled: bool) -> dict[str, str]:
    """Digests by which a resumed run knows its data again, wherever it lies and whatever its cache is called.

    Args:
        data: The images of the run.
        validation_rows: Rows that are never trained on.
        labelled: Whether the labels count.

    Returns:
        `stream`, of its first examples; or of a store
        `images`, of their number, up to COMPARED of them and all labels, and
        `held_out`, of every validation image in order, which costs less than measuring them once. (So called in
        the checkpoints of old runs too.)
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
    stream = copy.deepcopy(data.dataset)  # so that its position stays at the beginning
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
    """What a process needs to know to make its share of every global batch."""

    seed: int
    batch_size: int
    """Images in the global batch."""
    positions: range
    """The positions in the global batch that belong to this process."""


class StoreBatches(Dataset):
    """Item `step` is this process's share of that step's batch, from a decoded store or from some rows of it."""

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
        # The cache of orders stays behind in the parent process.
        return {"store": self.store, "plan": self.plan, "rows": self.rows}

    def __setstate__(self, state: dict) -> None:
        StoreBatches.__init__(self, **state)


class StreamBatches(IterableDataset):
    """The same batches from a stream; each carries the position of the stream after it as `stream`."""

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
    """A loader over the batches of these steps, made of all rows of a store or of those named."""
    batches: StreamBatches | StoreBatches
    sampler: range | None
    if isinstance(source, ImageStream):
        batches, sampler = StreamBatches(source, plan, steps, stream_state), None
        num_workers = min(num_workers, 1)  # one reader: the position of the stream is a single one
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
    """Ctrl-C and a batch system's SIGTERM reach the workers too, which must outlive the step that is finished then."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
