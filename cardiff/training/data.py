"""The images of a run: training rows, validation rows, and this process's share of every batch."""

import math
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from torch.utils.data import DataLoader

from cardiff.config.run import RunConfig
from cardiff.config.sections import TrainConfig
from cardiff.data import ImageStore, ImageStream
from cardiff.data.batches import BatchPlan, batch_loader, identify, open_data, split_rows
from cardiff.errors import UserError


@dataclass
class TrainingData:
    """The images, their classes, and how they are split between processes."""

    images: ImageStore | ImageStream
    class_names: list[str]
    """Empty for a run without labels."""
    rows: np.ndarray | None
    """Training rows of a store, in ascending order; None for a stream."""
    validation_rows: np.ndarray
    """Rows that are never trained on."""
    digests: dict[str, str]
    """Digests by which a resumed run recognises its data, from `identify`."""
    plan: BatchPlan
    num_workers: int
    pin_memory: bool

    def batches(self, first: int, stop: int, stream_state: dict | None) -> DataLoader:
        """This process's share of the batches of steps `first` to `stop` − 1."""
        return batch_loader(
            self.images,
            self.plan,
            range(first, stop),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            rows=self.rows,
            stream_state=stream_state,
        )

    def steps(self, train: TrainConfig) -> int:
        """Optimizer steps of the whole run.

        Raises:
            UserError: The length is given in epochs, but the data is a stream.
        """
        if train.max_steps is not None:
            return train.max_steps
        if self.rows is None:
            raise UserError("The length of a stream is not known in advance: set train.max_steps.")
        return math.ceil(train.epochs * len(self.rows) / train.batch_size)

    @property
    def class_counts(self) -> list[int] | None:
        """Training images of each class; None for a stream or without labels."""
        if self.rows is None or not self.class_names:
            return None
        return np.bincount(self.labels[self.rows], minlength=len(self.class_names)).tolist()

    @property
    def store(self) -> ImageStore:
        """The images as a store; they must not be a stream."""
        assert isinstance(self.images, ImageStore)
        return self.images

    @property
    def labels(self) -> np.ndarray:
        """Labels of all rows of a store, (N,)."""
        assert self.store.labels is not None
        return self.store.labels


def open_training_data(config: RunConfig, accelerator: Accelerator) -> TrainingData:
    """Open the images of a run, decoding them first if need be.

    Raises:
        UserError: The run cannot use the data, or the batch cannot be split evenly between the processes.
    """
    train = config.train
    plan = BatchPlan(seed=train.seed, batch_size=train.batch_size, positions=_positions(train, accelerator))
    images = open_data(config.data, conditional=config.labelled, seed=train.seed)
    rows, validation_rows = split_rows(images, getattr(train, "validation_fraction", 0.0), train.seed)
    return TrainingData(
        images=images,
        class_names=images.class_names if config.labelled else [],
        rows=rows,
        validation_rows=validation_rows,
        digests=identify(images, validation_rows, config.labelled),
        plan=plan,
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def _positions(train: TrainConfig, accelerator: Accelerator) -> range:
    """The positions of the global batch that this process works on."""
    processes = accelerator.num_processes
    parts = processes * train.gradient_accumulation_steps
    if train.batch_size % parts:
        raise UserError(
            f"train.batch_size is {train.batch_size}, but must be a multiple of {parts}, the number of processes "
            f"({processes}) times train.gradient_accumulation_steps ({train.gradient_accumulation_steps})."
        )
    share = train.batch_size // processes
    return range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
