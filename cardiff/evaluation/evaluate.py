"""evaluate.py: measure a folder of images or a model against a data set, and write the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from cardiff.devices import batch_size_for
from cardiff.distributed import on_main, one_first, this_process, wait_for_everyone
from cardiff.errors import UserError
from cardiff.evaluation.images import ImageSet, read_folder
from cardiff.evaluation.options import EvaluateOptions
from cardiff.evaluation.protocol import Protocol
from cardiff.evaluation.reports.evaluation import write_report
from cardiff.evaluation.samples import ModelFacts, draw_folder, labels_as_in, sample_options
from cardiff.files import remove
from cardiff.hub.serialization import find_model
from cardiff.outputs import owned
from cardiff.sampling.draw import make_plan

MOST_IMAGES = 50_000
"""Samples by default, at most: the number that published FIDs are measured at."""


def run(options: EvaluateOptions) -> Path:
    """Measure images or a model and return the folder with the report.

    Raises:
        UserError: Options, images, data or networks that cannot be used.
    """
    state = this_process()
    if (options.images is None) == (options.model is None):
        raise UserError("Give either --images DIR or --model DIR_OR_REPO.")
    options.check()
    check_seeds(options.seeds)
    output = Path(options.output)
    with owned(output, state.is_main_process):
        _evaluate(options, state, output)
        wait_for_everyone()
    return output


def _evaluate(options: EvaluateOptions, state: PartialState, output: Path) -> None:
    sets: dict[int | None, ImageSet]
    facts = None
    if options.model is not None:
        with one_first():
            facts = ModelFacts(find_model(options.model, options.revision))
        make_plan(sample_options(facts.folder, output, options))  # options are refused before anything is computed
        if options.reference is None:
            options.reference = _own_config(facts, options.model)
        size = facts.resolution, facts.channels
    else:
        assert options.images is not None, "one of both"
        given = _cut(read_folder(Path(options.images)), options.num_images)
        size = given.images.shape[2], given.images.shape[1]
    with tqdm(desc="real images", unit="img", disable=not state.is_main_process, leave=False) as bar:
        known = len(given.images) if facts is None else options.num_images
        batch_size = batch_size_for(options.batch_size, size[0], state.device)
        protocol = Protocol(options, *size, batch_size, known, bar.update)
    if facts is None:
        given = given.of_classes(protocol.reference.class_names)
        protocol.check_count(len(given.images))
        sets = {None: given}
    else:
        count = options.num_images or min(protocol.reference.count, MOST_IMAGES)
        protocol.check_count(count)
        sets = draw_sets(facts, protocol, options, options.seeds, count, output / "images")

    total = sum(len(drawn.images) for drawn in sets.values())
    with tqdm(total=total, desc="measuring", unit="img", disable=not state.is_main_process) as bar:
        found = {
            seed: protocol.measure(drawn.images, drawn.labels, seed=seed or 0, progress=bar.update)
            for seed, drawn in sets.items()
        }
    real = protocol.measure_real(next(iter(found.values())).count)
    on_main(lambda: write_report(output, protocol, sets, found, real, facts))
    if state.is_main_process and facts is not None and not options.keep_images:
        remove(output / "images")


def _own_config(facts: ModelFacts, model: str) -> str:
    """The configuration of a model's run, whose data it was trained on."""
    if facts.config_file is None:
        raise UserError(f"{model} has no config.yaml that names its training data: give --reference.")
    return str(facts.config_file)


def _cut(given: ImageSet, count: int | None) -> ImageSet:
    """The first images of a folder."""
    if count is None:
        return given
    if count > len(given.images):
        raise UserError(
            f"--num_images is {count}, but the folder contains {len(given.images)} images: give at most that."
        )
    labels = None if given.labels is None else given.labels[:count]
    return replace(given, images=given.images[:count], labels=labels, names=given.names[:count])


def check_seeds(seeds: Sequence[int]) -> None:
    """Check that no seed is given twice.

    Raises:
        UserError: A seed is given twice, whose images would count twice.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {seeds}, but the seeds must be different.")


def draw_sets(
    facts: ModelFacts, protocol: Protocol, options: EvaluateOptions, seeds: list[int], count: int, folder: Path
) -> dict[int | None, ImageSet]:
    """The model's images for each seed, drawn or read from the folder.

    Raises:
        UserError: The model has other classes than the reference.
    """
    if facts.classes and facts.class_names != protocol.reference.class_names:
        raise UserError(
            f"The model has the classes {facts.class_names[:3]}… and the reference "
            f"{protocol.reference.class_names[:3]}…: give the data that the model was trained on."
        )
    labels = labels_as_in(class_shares(protocol), count) if facts.classes else None
    sets: dict[int | None, ImageSet] = {}
    for seed in seeds:
        drawn = draw_folder(facts.folder, folder / f"seed-{seed}", options, count=count, seed=seed, labels=labels)
        sets[seed] = read_folder(drawn)
    return sets


def class_shares(protocol: Protocol) -> np.ndarray:
    """Images of each class in the reference, (K,).

    Raises:
        UserError: The reference has no labels.
    """
    labels = protocol.reference.labels
    if labels is None:
        raise UserError(
            "The reference has no labels, but the model's classes are drawn as often as in it: give labelled data."
        )
    return np.bincount(labels[labels >= 0], minlength=len(protocol.reference.class_names)).astype(float)
