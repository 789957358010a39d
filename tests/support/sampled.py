"""What sampling wrote, read back."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cardiff.sampling.folder import image_file

STEPS = 3


def pixels(folder, count):
    return np.stack([np.asarray(Image.open(image_file(Path(folder), i))) for i in range(count)]).astype(int)


def manifest(folder):
    return [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]
