"""Labelled grids: a row for each class, a block of columns for each guidance scale."""

import math
from pathlib import Path

import numpy as np
from accelerate import PartialState

from cardiff.distributed import gather_dict
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.draw import Plan, batches_of_process
from cardiff.sampling.labels import label_name


def draw_grid(plan: Plan, path: Path, state: PartialState) -> Path:
    """Draw the plan into a PNG file, and return the file."""
    options, variants, labels = plan.options, plan.guidance.variants, plan.labels
    if labels is not None:
        columns = max(1, (options.num_images or 8 * len(labels)) // len(labels))
        names, count = [label_name(label, plan.class_names) for label in labels], len(labels) * columns
    else:  # approximately square
        count = options.num_images or 8
        columns = math.ceil(math.sqrt(count))
        names = [""] * math.ceil(count / columns)
    mine = [i for batch in batches_of_process(count, plan.batch_size, state) for i in batch]
    chosen = None if labels is None else [labels[i // columns] for i in mine]
    blocks = []
    with plan.counting(len(mine) * len(variants), state) as progress:
        for variant in variants:
            images, _ = plan.draw(mine, chosen, variant, progress)
            blocks.append([image for _, image in sorted(gather_dict(dict(zip(mine, images))).items())])
    if state.is_main_process:
        drawn = np.stack(blocks)  # (blocks, images, H, W, C)
        whole = np.full(
            (len(blocks), len(names) * columns, *drawn.shape[2:]), 255, np.uint8
        )  # white where the last row ends
        whole[:, :count] = drawn
        save_labelled_grid(whole, names, plan.guidance.titles, path)
    return path
