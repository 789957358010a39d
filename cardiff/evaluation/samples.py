"""The samples of a model that are measured: drawn by sample.py's own code, with classes as in the data."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from cardiff.errors import UserError
from cardiff.files import file_hash, written_aside
from cardiff.hub.provenance import read_record
from cardiff.hub.serialization import load_pipeline, weights_file
from cardiff.sampling.options import DrawOptions, SampleOptions
from cardiff.sampling.sample import run as run_sampling
from cardiff.training.checkpoint import run_of


def labels_as_in(shares: np.ndarray, count: int) -> list[int]:
    """`count` class labels of which every beginning has the classes as nearly in these shares (K,) as it can.

    So no class is left to chance, and the first images of a long series can be measured for themselves.
    """
    shares = shares / shares.sum()
    drawn, labels = np.zeros(len(shares)), []
    for i in range(count):
        label = int(np.argmax(shares * (i + 1) - drawn))  # the class that is most behind
        drawn[label] += 1
        labels.append(label)
    return labels


def draw_folder(
    model: Path | str,
    output: Path,
    options: DrawOptions,
    *,
    count: int,
    seed: int,
    labels: list[int] | None,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Draw images into a folder, or go on with it; `labels` are of the whole series, of which `count` are drawn."""
    sampling = sample_options(model, output, options, labels=labels, num_images=count, seed=seed)
    return run_sampling(sampling, progress)


def sample_options(
    model: Path | str,
    output: Path,
    options: DrawOptions,
    *,
    labels: list[int] | None = None,
    num_images: int | None = None,
    seed: int = 0,
) -> SampleOptions:
    """The options of sample.py that draw with these.

    Raises:
        UserError: Several guidance scales, which sample.py would take in turn.
    """
    for name in ("guidance_scale", "classifier_scale"):
        if len(getattr(options, name)) > 1:
            raise UserError(
                f"--{name} is {getattr(options, name)}, but images are measured at one: compare.py sweeps."
            )
    shared = {field.name: getattr(options, field.name) for field in fields(DrawOptions)}
    return SampleOptions(
        **shared, model=str(model), output=str(output), labels=labels, num_images=num_images, seed=seed
    )


class ModelFacts:
    """What a report says of a model, read from its folder.

    Args:
        folder: A run, one of its checkpoints, or a snapshot of a Hub repository.
    """

    def __init__(self, folder: Path):
        pipeline = load_pipeline(folder)
        self.folder = folder
        names = {} if pipeline.unet.config.num_class_embeds is None else pipeline.class_names(None)
        self.classes = len(names)
        self.class_names = list(names.values())
        size = pipeline.unet.config.sample_size
        self.resolution = size if isinstance(size, int) else size[0]
        self.channels = pipeline.unet.config.in_channels
        self.parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters())
        self.config_file = _config_file(folder)
        config = pipeline.scheduler.config
        self.record: dict = {
            "weights_sha256": file_hash(weights_file(folder)),
            "kind": "conditional" if self.classes else "unconditional",
            "parameters": self.parameters,
            "timestep_spacing": config.get("timestep_spacing"),
            "prediction_type": config.prediction_type,
            "num_train_timesteps": config.num_train_timesteps,
        }
        run = read_record(folder)
        if run is not None:
            train = run["config"]["train"]
            told = ("batch_size", "ema_decay", "loss_weighting", "label_dropout", "seed")
            training = {name: train[name] for name in told if name in train}
            self.record |= {"schedule": run["config"]["scheduler"], "training": {**training, "steps": run["step"]}}

    @property
    def images_seen(self) -> int | None:
        """Training images shown to the model, counting repetitions; None if its folder does not say."""
        training = self.record.get("training", {})
        return training["steps"] * training["batch_size"] if training else None


def _config_file(folder: Path) -> Path | None:
    """The configuration of the run that a model belongs to."""
    file = run_of(folder) / "config.yaml"
    return file if file.is_file() else None


def keep_best(folder: Path, record: dict, save: Callable[[Path], None]) -> bool:
    """Put a model into `folder` if its record says a smaller distance than that of the one there.

    Args:
        folder: Of the best model so far, with its record in evaluation.json; it need not exist.
        record: Has `distance`, with a `value`.
        save: Writes the model into a folder.

    Returns:
        Whether it is the best.
    """
    file = folder / "evaluation.json"
    try:
        if json.loads(file.read_text())["distance"]["value"] <= record["distance"]["value"]:
            return False
    except (OSError, ValueError, KeyError):
        pass  # none, or one that was not written to its end
    with written_aside(folder) as aside:
        aside.mkdir(parents=True)
        save(aside)
        (aside / file.name).write_text(json.dumps(record, indent=1) + "\n")
    return True
