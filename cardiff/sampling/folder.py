"""The output folder of sample.py: options.json, PNG files with their settings in the metadata, and manifest.jsonl.

An interrupted folder can be completed and a complete one extended: existing images are kept if they are whole and of
the same options, damaged ones are drawn again, and other options are refused.
"""

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cardiff.cli import say_note
from cardiff.diffusion.randomness import image_seed
from cardiff.distributed import gather_dict
from cardiff.errors import DISK_ERRORS, UserError
from cardiff.files import ASIDE, file_hash, write_text, written_aside
from cardiff.hub.serialization import weights_file
from cardiff.integrity import parse_json, read_json
from cardiff.outputs import LOCK, owned
from cardiff.pipelines.pipeline_class_conditional import Scale
from cardiff.sampling.draw import Plan, batches_of_process
from cardiff.sampling.labels import ClassOrMixture, label_name

PNG_KEY = "cardiff"
"""Name of an image's settings in its metadata."""
OPTIONS = "options.json"
"""What the images of a folder have in common."""


def fill_folder(plan: Plan, output: Path, state: PartialState) -> Path:
    """Draw the images that the folder does not have yet, write the manifest, and return the folder.

    Raises:
        UserError: Another command writes there, the folder holds other files or images of other options, or an image
            is not finite.
        OSError: The disk is full or not writable; the images that were written stay.
    """
    if state.is_main_process:
        _refuse_foreign(output)
    with owned(output, state.is_main_process):
        return _Folder(plan, output, state).fill()


class _Folder:
    """The images of a plan in their folder."""

    def __init__(self, plan: Plan, output: Path, state: PartialState):
        self.plan, self.output, self.state = plan, output, state
        self.labels: Sequence[ClassOrMixture | None] = plan.labels or [None]
        options, guidance = plan.options, plan.guidance
        self.count = options.num_images or 8 * len(self.labels) * len(guidance.variants)
        single = len(guidance.variants) == 1
        identity = {
            "weights_sha256": file_hash(weights_file(plan.folder)),
            "labels": plan.labels,
            **{name: values[0] if single else values for name, values in guidance.numbers.items()},
            "solver": options.solver,
            "steps": options.steps,
            "seed": options.seed,
            **guidance.record,
            **plan.precision,
        }
        if plan.timesteps is not None:
            identity["timesteps"] = plan.timesteps
        self.identity: dict[str, Any] = _as_read(identity)

    def fill(self) -> Path:
        """As `fill_folder`."""
        output, state = self.output, self.state
        if state.is_main_process:
            self._claim()
        state.wait_for_everyone()

        batches = batches_of_process(self.count, self.plan.batch_size, state)
        entries, missing, damaged = self._look(batches)
        damaged = gather_dict(damaged)
        if damaged and state.is_main_process:
            names = ", ".join(sorted(damaged)[:3]) + (", …" if len(damaged) > 3 else "")
            say_note(f"{output}: damaged images are drawn again, {len(damaged)} in all: {names}.")
        # A thread encodes and writes a batch while the next one is drawn; it also finishes its batch if the drawing
        # fails or is stopped. One thread, so that images are written in order up to the first that cannot be.
        with self.plan.counting(sum(map(len, batches)), state) as progress, ThreadPoolExecutor(1) as writer:
            writing: Future[dict[int, dict]] | None = None
            for batch in batches:
                if batch in missing:
                    images, cost = self._draw(batch)
                    if writing is not None:
                        entries |= writing.result()
                    writing = writer.submit(self._write, batch, images, cost)
                progress(len(batch))
            if writing is not None:
                entries |= writing.result()
        entries = gather_dict(entries)
        if state.is_main_process:
            lines = "".join(f"{json.dumps(entries[i])}\n" for i in range(self.count))
            write_text(output / "manifest.jsonl", lines, per_process=True)
        state.wait_for_everyone()  # for the manifest, which other processes may read next
        return output

    def _claim(self) -> None:
        """Check that the images of the folder were drawn with the same options, and write these."""
        record, before = self.output / OPTIONS, None
        if record.exists():
            try:
                before = read_json(record, infinite=True)
            except UserError as error:
                damage = str(error).partition(": copy")[0]
                self._refuse_other_images(damage)
                say_note(f"{damage}; it is written again, since the images fit the options.")
        if before is not None:
            keys = sorted(before.keys() | self.identity.keys())
            changed = [key for key in keys if before.get(key) != self.identity.get(key)]
            if changed:
                names = ", ".join(changed[:8]) + (", …" if len(changed) > 8 else "")
                raise UserError(
                    f"{self.output} contains images drawn with other options ({names} differ): choose another "
                    "--output or remove it."
                )
        write_text(record, json.dumps(self.identity, indent=1), per_process=True)

    def _refuse_other_images(self, damage: str) -> None:
        """Where options.json is damaged, the images themselves say with which options they were drawn."""
        for path in sorted(self.output.iterdir()):
            if re.fullmatch(r"\d{6,}\.png", path.name):
                entry = read_entry(path)
                if entry is not None and not self._fits(entry, int(path.stem)):
                    raise UserError(
                        f"{damage}, and {path.name} was drawn with other options: choose another --output or remove "
                        f"{self.output}."
                    )

    def _look(self, batches: list[range]) -> tuple[dict[int, dict], list[range], dict[str, int]]:
        """The entries of this process's images, its batches that have to be drawn, and its damaged files."""
        entries: dict[int, dict] = {}
        missing: list[range] = []
        damaged: dict[str, int] = {}
        for batch in batches:
            found = {i: read_entry(path) for i in batch if (path := image_file(self.output, i)).exists()}
            whole = {i: entry for i, entry in found.items() if entry is not None and self._fits(entry, i)}
            damaged |= {image_file(self.output, i).name: i for i in found.keys() - whole.keys()}
            if len(whole) == len(batch):
                entries |= whole
            else:
                missing.append(batch)
        return entries, missing, damaged

    def _fits(self, entry: dict, i: int) -> bool:
        """Whether an image's entry says what is to be drawn; only the evaluations are known from drawing alone."""
        counts = entry.get("evaluations")
        counted = isinstance(counts, dict) and all(type(count) is int for count in counts.values())
        return counted and _as_read({**self._entry(i), "evaluations": counts}) == entry

    def _entry(self, i: int) -> dict:
        """What the manifest says of an image, all but its evaluations."""
        label, turn = self._chosen(i)
        numbers = self.plan.guidance.numbers
        entry = {"file": image_file(self.output, i).name, "index": i, "seed": image_seed(self.plan.options.seed, i)}
        entry |= {"label": label, "name": None if label is None else label_name(label, self.plan.class_names)}
        how = {key: self.identity[key] for key in self.identity if key not in ("labels", "seed")}
        return entry | how | {name: numbers[name][turn] for name in numbers}

    def _chosen(self, i: int) -> tuple[ClassOrMixture | None, int]:
        """Label and variant of an image: all labels with the first variant, then all with the next, and so on."""
        return self.labels[i % len(self.labels)], i // len(self.labels) % len(self.plan.guidance.variants)

    def _draw(self, batch: range) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Draw a batch: images, uint8 (B, H, W, C), and the evaluations of each."""
        variants, numbers = self.plan.guidance.variants, self.plan.guidance.numbers
        chosen, turns = zip(*(self._chosen(i) for i in batch))
        # A scale for each image in one pass; functions of log-SNR are the same for all.
        scales: dict[str, Scale] = {**variants[0], **{name: [numbers[name][t] for t in turns] for name in numbers}}
        return self.plan.draw(batch, [label for label in chosen if label is not None] or None, scales)

    def _write(self, batch: range, images: np.ndarray, cost: list[dict[str, int]]) -> dict[int, dict]:
        """Write a batch, and return its entries; images before one that cannot be written stay."""
        entries = {}
        for i, image, evaluations in zip(batch, images, cost):
            entries[i] = _as_read({**self._entry(i), "evaluations": evaluations})
            _write_png(image, image_file(self.output, i), entries[i])
        return entries


def image_file(output: Path, index: int) -> Path:
    """The file of image number `index` in a folder of samples."""
    return output / f"{index:06d}.png"


def _refuse_foreign(output: Path) -> None:
    """Refuse a folder with files in which sample.py has not written, before anything is written there."""
    if output.is_dir() and not (output / OPTIONS).exists():
        if any(path.name != LOCK and not path.name.startswith(ASIDE) for path in output.iterdir()):
            raise UserError(f"{output} is not empty and was not made by this command: choose another --output.")


def _as_read(content: dict) -> dict:
    """What is written to JSON, as it is read again."""
    return json.loads(json.dumps(content))


def _write_png(image: np.ndarray, path: Path, entry: dict) -> None:
    """Write an image with its settings in the metadata."""
    text = PngInfo()
    text.add_text(PNG_KEY, json.dumps(entry))
    with written_aside(path, per_process=True) as aside:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(aside, "PNG", pnginfo=text)


def read_entry(path: Path) -> dict | None:
    """The manifest's entry for an image, from the image's metadata; None if the file is damaged.

    Raises:
        UserError: It is whole, but sample.py has not written it.
        OSError: It may not be read.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums of its parts
        with Image.open(path) as image:
            image.load()
            text = image.info.get(PNG_KEY)
        entry = None if text is None else parse_json(dict, text, str(path), infinite=True)
    except Exception as error:  # Pillow's readers raise nearly every type on bad bytes
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        return None
    if entry is None:
        raise UserError(f"{path} was not written by this command: remove it, or choose another --output.")
    return entry
