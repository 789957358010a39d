"""Which images, timesteps, flips and dropped labels make up the batch of a step: a pure function of (seed, step).

Samples are numbered n = step · batch_size + position. Sample n is image n mod N of epoch n // N's permutation, so the
epochs follow each other without a gap and every batch has the same size.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cardiff.config import DataConfig
from cardiff.data.store import ImageStore, open_store
from cardiff.data.stream import ImageStream
from cardiff.randomness import DRAWS, ORDER, numpy_generator


def open_data(config: DataConfig, *, conditional: bool, seed: int) -> ImageStore | ImageStream:
    """The images of a run: decoded into a store, or as a stream if `data.streaming` is set."""
    return ImageStream(config, seed, conditional) if config.streaming else open_store(config, conditional)


@dataclass(frozen=True)
class BatchPlan:
    """What a process needs to know to make its share of every global batch."""

    seed: int
    batch_size: int
    """Images in the global batch."""
    positions: range
    """The positions in the global batch that belong to this process."""
    num_train_timesteps: int
    horizontal_flip: bool
    label_dropout: float

    def draws(self, step: int) -> dict[str, torch.Tensor]:
        """Timesteps (int64), flips and dropped labels (bool), each (len(positions),)."""
        rng = numpy_generator(self.seed, DRAWS, step)
        share = slice(self.positions.start, self.positions.stop)
        timesteps = rng.integers(0, self.num_train_timesteps, self.batch_size)[share]
        flip = rng.random(self.batch_size)[share] < (0.5 if self.horizontal_flip else 0.0)
        drop = rng.random(self.batch_size)[share] < self.label_dropout
        return {name: torch.from_numpy(a) for name, a in (("timesteps", timesteps), ("flip", flip), ("drop", drop))}


class StoreBatches(Dataset):
    """Item `step` is this process's share of that step's batch, from a decoded store."""

    def __init__(self, store: ImageStore, plan: BatchPlan):
        self.store, self.plan = store, plan
        self._order = lru_cache(maxsize=2)(self._order)  # a batch can span two epochs

    def _order(self, epoch: int) -> np.ndarray:
        return numpy_generator(self.plan.seed, ORDER, epoch).permutation(len(self.store))

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        first = step * self.plan.batch_size
        n = np.arange(first + self.plan.positions.start, first + self.plan.positions.stop)
        epochs, places = np.divmod(n, len(self.store))
        rows = np.concatenate([self._order(int(e))[places[epochs == e]] for e in np.unique(epochs)])
        batch = {"images": torch.from_numpy(self.store.images[rows]), **self.plan.draws(step)}
        if self.store.labels is not None:
            batch["labels"] = torch.from_numpy(self.store.labels[rows])
        return batch

    def __getstate__(self):
        return {"store": self.store, "plan": self.plan}  # the cache of orders stays behind in the parent process

    def __setstate__(self, state):
        self.__init__(**state)


class StreamBatches(IterableDataset):
    """The same batches from a stream; each carries the position of the stream after it as `stream`."""

    def __init__(self, stream: ImageStream, plan: BatchPlan, steps: range, state: dict | None):
        self.stream, self.plan, self.steps, self.state = stream, plan, steps, state

    def __iter__(self) -> Iterator[dict]:
        shares = self.stream.batches(self.plan.batch_size, self.plan.positions, state=self.state)
        for step, (images, labels, state) in zip(self.steps, shares):
            batch = {"images": torch.from_numpy(images), **self.plan.draws(step), "stream": state}
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
    stream_state: dict | None = None,
) -> DataLoader:
    """A loader over the batches of these steps."""
    if isinstance(source, ImageStream):
        batches, sampler = StreamBatches(source, plan, steps, stream_state), None
        num_workers = min(num_workers, 1)  # one reader: the position of the stream is a single one
    else:
        batches, sampler = StoreBatches(source, plan), steps
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
