"""A labelled set of small grey images, and the model, judge and data sections that go with it."""

from pathlib import Path

import numpy as np
import yaml
from diffusers import DDPMPipeline
from PIL import Image

from cardiff.hub import save_classifier, save_pipeline
from schedulers import CosineScheduler
from tests.tiny_classifier import tiny_classifier
from tests.tiny_models import NAMES, tiny_pipeline, tiny_unet

COUNTS = (30, 20, 10)


def tiny_images(seed: int, counts=COUNTS) -> dict[str, np.ndarray]:
    """uint8 (n, 8, 8) for each class: noise around a bright column that tells the class."""
    rng = np.random.default_rng(seed)
    images = {}
    for label, (name, count) in enumerate(zip(NAMES.values(), counts)):
        pixels = rng.normal(80, 25, (count, 8, 8))
        pixels[:, :, 2 * label] += 120
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
    save_pipeline(tiny_pipeline(), folder / "conditional")
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), folder / "unconditional")
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), folder / "judge")
    return folder / "conditional", folder / "unconditional", folder / "judge"
