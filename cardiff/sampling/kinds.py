"""The same noise and classes under several kinds of guidance, for the demonstrations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from cardiff.pipelines import ClassConditionalPipeline
from cardiff.sampling.draw import draw

Drawn = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each kind of guidance the images, uint8 (N, H, W, C), and the class of each, (N,)."""


def draw_kinds(
    pipeline: ClassConditionalPipeline,
    kinds: Mapping[str, dict[str, Any]],
    images_per_class: Mapping[str, int],
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 100,
) -> Drawn:
    """Draw every class with each kind of guidance, all from the same noise.

    Args:
        pipeline: The model, with the solver as its scheduler.
        kinds: Arguments of the pipeline by the name of the kind.
        images_per_class: Of each kind. Image i has class i modulo the number of classes, so that fewer images are the
            first of more.
        steps: Solver steps.
        seed: Of the noise.
        batch_size: Images per batch.
    """
    classes = np.arange(len(pipeline.class_names()))
    counts = {kind: len(classes) * images_per_class[kind] for kind in kinds}
    drawn: Drawn = {}
    with tqdm(total=sum(counts.values()), desc="sampling", unit="img") as bar:
        for kind, guidance in kinds.items():
            labels = np.resize(classes, counts[kind])
            images, _ = draw(
                pipeline,
                range(counts[kind]),
                seed=seed,
                labels=labels.tolist(),
                steps=steps,
                batch_size=batch_size,
                progress=bar.update,
                **guidance,
            )
            drawn[kind] = images, labels
    return drawn


def grid_blocks(drawn: Drawn, classes: int, shown: int) -> np.ndarray:
    """A block of images for each kind, with a row for each class, as `save_labelled_grid` takes them.

    Args:
        drawn: What `draw_kinds` returned.
        classes: Number of classes.
        shown: Images of each class; at most those that every kind has.

    Returns:
        uint8 (kinds, classes · shown, H, W, C)
    """
    blocks = []
    for images, _ in drawn.values():
        by_class = images[: shown * classes].reshape(shown, classes, *images.shape[1:]).swapaxes(0, 1)
        blocks.append(by_class.reshape(-1, *images.shape[1:]))
    return np.stack(blocks)
