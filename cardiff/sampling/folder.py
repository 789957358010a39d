"""The output folder of sample.py: options.json, PNG files with their settings in the metadata, and manifest.jsonl.

An interrupted folder can be completed and a complete one extended: existing images are kept, and other options are
refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cardiff.diffusion.randomness import image_seed
from cardiff.errors import UserError
from cardiff.files import ASIDE, file_hash, write_text, written_aside
from cardiff.hub.serialization import weights_file
from cardiff.pipelines.pipeline_class_conditional import Scale
from cardiff.sampling.draw import Plan, batches_of_process
from cardiff.sampling.labels import ClassOrMixture, label_name

PNG_KEY = "cardiff"
"""Name of an image's settings in its metadata."""


def fill_folder(plan: Plan, output: Path, state: PartialState) -> Path:
    """Draw the images that the folder does not have yet, write the manifest, and return the folder.

    Raises:
        UserError: The folder holds other files, images of other options or a damaged image, or an image is not finite.
    """
    options, variants, labels = plan.options, plan.guidance.variants, plan.labels
    count = options.num_images or 8 * (len(labels) if labels else 1) * len(variants)
    identity = {
        "weights_sha256": file_hash(weights_file(plan.folder)),
        "labels": labels,
        **{name: values[0] if len(variants) == 1 else values for name, values in plan.guidance.numbers.items()},
        "solver": options.solver,
        "steps": options.steps,
        "seed": options.seed,
        **plan.guidance.record,
    }
    if plan.timesteps is not None:
        identity["timesteps"] = plan.timesteps
    identity = json.loads(json.dumps(identity))  # comparable with what is read from options.json
    if state.is_main_process:
        _claim_folder(output, identity)
    state.wait_for_everyone()

    mine = batches_of_process(count, options, state)
    with plan.counting(sum(map(len, mine)), state) as progress:
        for batch in mine:
            if not all(image_file(output, i).exists() for i in batch):
                _draw_batch(plan, batch, identity, output)
            progress(len(batch))
    state.wait_for_everyone()
    if state.is_main_process:
        entries = [read_entry(image_file(output, i)) for i in range(count)]
        write_text(output / "manifest.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in entries), per_process=True)
    state.wait_for_everyone()  # for the manifest, which other processes may read next
    return output


def _draw_batch(plan: Plan, batch: range, identity: dict, output: Path) -> None:
    """Draw and write a batch: all labels with the first variant, then all with the next, and so on."""
    labels: Sequence[ClassOrMixture | None] = plan.labels or [None]
    variants, numbers = plan.guidance.variants, plan.guidance.numbers
    chosen = [labels[i % len(labels)] for i in batch]
    turns = [i // len(labels) % len(variants) for i in batch]
    # A scale for each image in one pass; functions of log-SNR are the same for all.
    scales: dict[str, Scale] = {**variants[0], **{name: [numbers[name][turn] for turn in turns] for name in numbers}}
    images, cost = plan.draw(batch, [label for label in chosen if label is not None] or None, scales)
    how = {key: identity[key] for key in identity if key not in ("labels", "seed")}
    for i, image, label, turn, evaluations in zip(batch, images, chosen, turns, cost):
        path = image_file(output, i)
        entry = {"file": path.name, "index": i, "seed": image_seed(plan.options.seed, i)}
        entry |= {"label": label, "name": None if label is None else label_name(label, plan.class_names)}
        entry |= how | {name: numbers[name][turn] for name in numbers} | {"evaluations": evaluations}
        _write_png(image, path, entry)


def image_file(output: Path, index: int) -> Path:
    """The file of image number `index` in a folder of samples."""
    return output / f"{index:06d}.png"


def _claim_folder(output: Path, identity: dict) -> None:
    """Create the folder, or check that its images were drawn with the same options."""
    record = output / "options.json"
    if record.exists():
        before = json.loads(record.read_text())
        changed = [key for key in sorted(before.keys() | identity.keys()) if before.get(key) != identity.get(key)]
        if changed:
            raise UserError(
                f"{output} contains images drawn with other options ({', '.join(changed)} differ): "
                "choose another --output or remove it."
            )
    elif output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is not empty and was not made by this command: choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    for half_written in output.glob(f"{ASIDE}*"):
        half_written.unlink()
    write_text(record, json.dumps(identity, indent=1), per_process=True)


def _write_png(image: np.ndarray, path: Path, entry: dict) -> None:
    """Write an image with its settings in the metadata."""
    text = PngInfo()
    text.add_text(PNG_KEY, json.dumps(entry))
    with written_aside(path, per_process=True) as aside:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(aside, "PNG", pnginfo=text)


def read_entry(path: Path) -> dict:
    """The manifest's entry for an image, from the image's metadata.

    Raises:
        UserError: The image is damaged, or was not written by `sample.py`.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return json.loads(image.text[PNG_KEY])
    except Exception as error:  # Pillow's readers raise nearly every type on bad bytes
        raise UserError(
            f"{path} is damaged or was not written by this command: remove it and run the command again."
        ) from error
