"""A small data set in the layout of the Stanford Cars archives."""

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image


def write_stanford_cars(folder, num_images=24, num_classes=4, size=(40, 64)) -> list[dict]:
    """Writes the devkit, `num_images` training images and half as many test images of random colours.

    Args:
        folder: Created if absent.
        num_images: Images of the training split; class i % num_classes (from 0) has image i.
        num_classes: Classes, named "Make 0 Coupe 2012" and so on.
        size: Smallest and largest width and height, drawn independently; a box leaves out 4 pixels at each side.

    Returns:
        The training annotations: fname, class (from 1) and bbox_x1, bbox_y1, bbox_x2, bbox_y2 (from 1, inclusive).
    """
    folder = Path(folder)
    (folder / "devkit").mkdir(parents=True)
    names = np.array([f"Make {i} Coupe 2012" for i in range(num_classes)], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    rng = np.random.default_rng(0)
    train = _write_split(folder / "cars_train", num_images, num_classes, size, rng)
    _save(folder / "devkit" / "cars_train_annos.mat", train)
    test = _write_split(folder / "cars_test", num_images // 2, num_classes, size, rng)
    _save(folder / "cars_test_annos_withlabels.mat", test)
    return train


def _write_split(folder: Path, num_images: int, num_classes: int, size: tuple, rng: np.random.Generator) -> list[dict]:
    folder.mkdir()
    annotations = []
    for i in range(num_images):
        width, height = (int(side) for side in rng.integers(size[0], size[1], 2, endpoint=True))
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((width, height), Image.NEAREST).save(folder / f"{i + 1:05d}.jpg", quality=95)
        box = {"bbox_x1": 5, "bbox_y1": 5, "bbox_x2": width - 4, "bbox_y2": height - 4}
        annotations.append({**box, "class": i % num_classes + 1, "fname": f"{i + 1:05d}.jpg"})
    return annotations


def _save(path: Path, annotations: list[dict]) -> None:
    """Saves the (1, N) struct array `annotations`, as the devkit does."""
    fields = list(annotations[0])
    struct = np.empty((1, len(annotations)), dtype=[(field, object) for field in fields])
    for i, annotation in enumerate(annotations):
        struct[0, i] = tuple(annotation[field] for field in fields)
    scipy.io.savemat(path, {"annotations": struct})
