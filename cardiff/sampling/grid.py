"""Labelled grids: a row for each class, a block of columns for each guidance scale."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState

from cardiff.diffusion.randomness import image_seed
from cardiff.distributed import gather_dict
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.draw import Plan, batches_of_process
from cardiff.sampling.labels import label_name


@dataclass
class Grid:
    """The images of a plan, a block for each of its guidance scales; the same noise in each."""

    blocks: np.ndarray
    """uint8 (blocks, images, H, W, C)."""
    cost: list[list[dict[str, int]]]
    """Evaluations of each network, for each image of each block."""
    names: list[str]
    """Of the rows: the classes, or nothing."""
    columns: int
    """Images of a row in each block."""
    titles: list[str]
    """Of the blocks."""
    seed: int

    def save(self, path: Path) -> None:
        """Write the labelled grid, white where the last row ends."""
        blocks, count = self.blocks.shape[:2]
        whole = np.full((blocks, len(self.names) * self.columns, *self.blocks.shape[2:]), 255, np.uint8)
        whole[:, :count] = self.blocks
        save_labelled_grid(whole, self.names, self.titles, path)

    def entries(self) -> list[dict[str, object]]:
        """What is to be said of each image: its place, index, seed and cost."""
        return [
            {
                "guidance": title,
                "name": self.names[index // self.columns] or None,
                "column": index % self.columns,
                "index": index,
                "seed": image_seed(self.seed, index),
                "evaluations": evaluations,
            }
            for title, costs in zip(self.titles, self.cost)
            for index, evaluations in enumerate(costs)
        ]


def draw_grid(plan: Plan, path: Path, state: PartialState) -> Path:
    """Draw the plan into a PNG file, and return the file."""
    grid = grid_of(plan, state)
    if state.is_main_process:
        grid.save(path)
    return path


def grid_of(plan: Plan, state: PartialState) -> Grid:
    """Draw the plan's images; whole in the main process."""
    count, columns, names = layout_of(plan)
    labels = plan.labels
    mine = [i for batch in batches_of_process(count, plan.batch_size, state) for i in batch]
    chosen = None if labels is None else [labels[i // columns] for i in mine]
    blocks, costs = [], []
    with plan.counting(len(mine) * len(plan.guidance.variants), state) as progress:
        for variant in plan.guidance.variants:
            images, cost = plan.draw(mine, chosen, variant, progress)
            drawn = gather_dict(dict(zip(mine, zip(images, cost))))
            blocks.append([drawn[i][0] for i in sorted(drawn)])
            costs.append([drawn[i][1] for i in sorted(drawn)])
    return Grid(np.stack(blocks), costs, names, columns, plan.guidance.titles, plan.options.seed)


def layout_of(plan: Plan) -> tuple[int, int, list[str]]:
    """How many images a block has, how many of them a row, and what the rows are called."""
    options, labels = plan.options, plan.labels
    if labels is None:  # approximately square
        count = options.num_images or 8
        columns = math.ceil(math.sqrt(count))
        return count, columns, [""] * math.ceil(count / columns)
    columns = max(1, (options.num_images or 8 * len(labels)) // len(labels))
    return len(labels) * columns, columns, [label_name(label, plan.class_names) for label in labels]
