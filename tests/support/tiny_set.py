"""A labelled set of small grey images, and the model, judge and data sections that go with it.

It has more classes than ten, since "10" comes before "2" in sorted JSON, of unequal size, with names that mean
something to a shell, to Markdown, HTML or TeX, to the command line's --labels, or to a file system.
"""

from pathlib import Path

import numpy as np
import yaml
from diffusers import DDPMPipeline
from PIL import Image

from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline, tiny_unet

CLASSES = {
    "007": 5,
    "<i>fox": 2,
    "Ba$$in": 6,
    "Dog": 3,
    "a, b": 7,
    "bee": 9,
    "dog": 4,
    "pipe|d": 8,
    "star*": 3,
    "up+down": 6,
    "élan": 2,
    "日本": 5,
}
"""Images of each class, by its name and in the order of the labels."""
COUNTS = tuple(CLASSES.values())
NAMES = dict(enumerate(CLASSES))


def tiny_images(seed: int, counts=COUNTS) -> dict[str, np.ndarray]:
    """uint8 (n, 8, 8) for each class: noise around a bright line that tells the class, eight columns and then rows."""
    rng = np.random.default_rng(seed)
    images = {}
    for label, (name, count) in enumerate(zip(NAMES.values(), counts)):
        pixels = rng.normal(80, 25, (count, 8, 8))
        (pixels.transpose(0, 2, 1) if label < 8 else pixels)[:, label % 8] += 120
        images[name] = pixels.round().clip(0, 255).astype(np.uint8)
    return images


def write_set(folder: Path, seed: int, counts=COUNTS) -> Path:
    """The images in a folder with a subfolder a class; returns the file of a data section that reads it."""
    for name, images in tiny_images(seed, counts).items():
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i:03d}.png")
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({"data": {"path": str(folder), "resolution": 8, "channels": 1}}))
    return file


def write_world(folder: Path) -> dict[str, Path]:
    """Data sections of a training and a held-out set, and the folders of a model, its twin and a judge."""
    train, held_out = write_set(folder / "train", 0), write_set(folder / "held_out", 1)
    conditional, unconditional, judge = write_models(folder)
    return {"train": train, "held_out": held_out, "model": conditional, "twin": unconditional, "judge": judge}


def write_models(folder: Path) -> tuple[Path, Path, Path]:
    """Folders of a conditional model, an unconditional one, and a classifier, all with random weights."""
    save_pipeline(tiny_pipeline(id2label=NAMES), folder / "conditional")
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), folder / "unconditional")
    judge = tiny_classifier(num_classes=len(NAMES), id2label=NAMES)
    save_classifier(judge, CosineScheduler().to_stock(), folder / "judge")
    return folder / "conditional", folder / "unconditional", folder / "judge"
