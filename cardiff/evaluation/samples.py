"""The samples of a model to be measured: drawn as by sample.py, with classes as frequent as in the data."""

import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from cardiff.errors import UserError
from cardiff.files import file_hash, written_aside
from cardiff.hub.provenance import read_record
from cardiff.hub.serialization import load_pipeline, weights_file
from cardiff.integrity import CHECKSUMS, find_damage, read_json, write_checksums
from cardiff.sampling.options import DrawOptions, SampleOptions
from cardiff.sampling.sample import run as run_sampling
from cardiff.training.checkpoint import run_of

logger = logging.getLogger(__name__)

BEST_RECORD = "evaluation.json"
"""The evaluation of the best model of a run, in its folder."""


def labels_as_in(shares: np.ndarray, count: int) -> list[int]:
    """`count` class labels in these shares (K,), the first n of them too, for every n, up to rounding.

    So the class frequencies are not random, and the first images of a long series can be measured alone.
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
    """Draw images into a folder, or resume it; `labels` are of the whole series, of which `count` are drawn."""
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
    """The options of sample.py for drawing with these.

    Raises:
        UserError: There are several guidance scales, which sample.py would use in turn.
    """
    for name in ("guidance_scale", "classifier_scale"):
        if len(getattr(options, name)) > 1:
            raise UserError(
                f"--{name} is {getattr(options, name)}, but one value is measured at a time: compare.py "
                "sweeps guidance_scale."
            )
    shared = {field.name: getattr(options, field.name) for field in fields(DrawOptions)}
    return SampleOptions(
        **shared, model=str(model), output=str(output), labels=labels, num_images=num_images, seed=seed
    )


class ModelFacts:
    """Facts about a model for reports, read from its folder.

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
        """Number of training images seen, counting repetitions; None if the folder does not say."""
        training = self.record.get("training", {})
        return training["steps"] * training["batch_size"] if training else None


def _config_file(folder: Path) -> Path | None:
    """The configuration of the run that a model belongs to, if there is one."""
    file = run_of(folder) / "config.yaml"
    return file if file.is_file() else None


def keep_best(folder: Path, record: dict, save: Callable[[Path], None]) -> bool:
    """Save a model into `folder` if its distance is smaller than that of the model there.

    Args:
        folder: The best model so far, with its record in evaluation.json and checksums; it need not exist.
        record: The evaluation; has `distance` with a `value`.
        save: Writes the model into a folder.

    Returns:
        Whether it is the best.
    """
    best = _smallest_distance(folder)
    if best is not None and not record["distance"]["value"] < best:
        return False
    with written_aside(folder) as aside:
        aside.mkdir(parents=True)
        save(aside)
        (aside / BEST_RECORD).write_text(json.dumps(record, indent=1) + "\n")
        write_checksums(aside)
    return True


def _smallest_distance(folder: Path) -> float | None:
    """The distance of the best model so far; None if there is none, or none that is whole."""
    if not folder.exists():
        return None
    reason = find_damage(folder) if (folder / CHECKSUMS).exists() else None  # those of earlier versions have none
    if reason is None:
        try:
            distance = read_json(folder / BEST_RECORD)["distance"]["value"]
            if type(distance) in (int, float):
                return distance
            reason = f"{BEST_RECORD} has no distance"
        except (OSError, KeyError, TypeError, UserError) as error:
            reason = str(error)
    logger.warning("The best model so far is damaged and is replaced: %s", reason)
    return None
