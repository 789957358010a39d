"""Writes digits.parquet from scikit-learn's copy of the handwritten digits."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def png(scan):
    buffer = io.BytesIO()
    Image.fromarray(np.rint(scan * 255 / 16).astype(np.uint8)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


digits = load_digits()  # images (1797, 8, 8) of values 0 to 16
features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
columns = {"image": [png(scan) for scan in digits.images], "label": digits.target.tolist()}
datasets.Dataset.from_dict(columns, features).to_parquet(Path(__file__).with_name("digits.parquet"))
