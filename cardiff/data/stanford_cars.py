"""Stanford Cars in the layout of its original archives.

J. Krause, M. Stark, J. Deng and L. Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 2013.

    devkit/cars_meta.mat                  class_names
    devkit/cars_train_annos.mat           annotations: bbox_x1, bbox_y1, bbox_x2, bbox_y2, class, fname
    cars_train/*.jpg
    cars_test_annos_withlabels.mat        the same for the test split; in devkit/ or here
    cars_test/*.jpg
"""

from pathlib import Path

import datasets
import numpy as np
import scipy.io

from cardiff.errors import UserError

ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def load_stanford_cars(folder: str | Path, split: str = "train") -> datasets.Dataset:
    """Lists one split of Stanford Cars, with the images undecoded.

    Args:
        folder: The folder that contains `devkit`, `cars_train` and `cars_test`.
        split: "train" (8,144 images) or "test" (8,041 images).

    Returns:
        A data set with the columns `image` (paths), `label` (a ClassLabel, from 0) and `bbox` (x1, y1, x2, y2 in
        pixels from 0, x2 and y2 exclusive, as PIL's crop takes them).

    Raises:
        UserError: The split is unknown, an annotation file is missing or cannot be read, or images are missing.
    """
    folder = Path(folder)
    if split not in ANNOTATIONS:
        raise UserError(f"data.split {split!r} is not a split of Stanford Cars: choose from 'train' and 'test'.")
    class_names = [str(name) for name in _load_mat(folder / "devkit" / "cars_meta.mat", "class_names")]

    annotation_file = folder / "devkit" / ANNOTATIONS[split]
    if split == "test" and not annotation_file.exists():
        annotation_file = folder / ANNOTATIONS[split]
    annotations = _load_mat(annotation_file, "annotations")
    # A common mistake is a file without `class`, such as cars_test_annos.mat.
    missing = {"bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"} - set(annotations.dtype.names or ())
    if missing:
        raise UserError(f"{annotation_file} lacks the fields {sorted(missing)}: use the file with the class labels.")

    image_folder = folder / f"cars_{split}"
    present = {path.name for path in image_folder.glob("*")}
    absent = [str(name) for name in annotations["fname"] if str(name) not in present]
    if absent:
        raise UserError(
            f"{image_folder} lacks {len(absent)} of the {len(annotations)} images named in {annotation_file.name}, "
            f"first {absent[0]}: extract the archive of the {split} split again."
        )

    labels = np.array([int(number) for number in annotations["class"]]) - 1
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError(
            f"{annotation_file} has classes outside 1 to {len(class_names)}: use the devkit of the same release."
        )
    # The annotations count pixels from 1 and include the last one; only x1 and y1 change.
    corners = [annotations[f"bbox_{corner}"].astype(np.int64) for corner in ("x1", "y1", "x2", "y2")]
    boxes = np.stack(corners, axis=1) - [1, 1, 0, 0]  # (N, 4)
    return datasets.Dataset.from_dict(
        {
            "image": [str(image_folder / str(name)) for name in annotations["fname"]],
            "label": labels.tolist(),
            "bbox": boxes.tolist(),
        },
        features=datasets.Features(
            {
                "image": datasets.Image(decode=False),
                "label": datasets.ClassLabel(names=class_names),
                "bbox": datasets.List(datasets.Value("int32"), length=4),
            }
        ),
    )


def _load_mat(path: Path, variable: str) -> np.ndarray:
    if not path.exists():
        raise UserError(f"{path} does not exist: extract the Stanford Cars archives into the folder data.path.")
    try:
        return np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[variable])
    except Exception as error:  # scipy's reader raises many exception types on bad data
        raise UserError(f"{path} has no readable variable {variable!r}: download it again.") from error
