"""Figures of evaluation reports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cardiff.evaluation.metrics.frechet import Extrapolation
from cardiff.evaluation.metrics.memorisation import Memorisation
from cardiff.markup import figure_text
from cardiff.plotting import BLUE, GREY, ORANGE, new_figure, save_figure, save_labelled_grid

MANY_CLASSES = 30
"""With more classes a confusion matrix is drawn without names and numbers, and tables have only the extremes."""
LONGEST = 40
"""Characters of a class's name in a figure."""


def save_confusion(confusion: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw images by requested class (rows) and predicted class (columns), as shares of the row.

    Args:
        confusion: Number of images, int (K, K).
        names: Of the classes.
        path: PNG file to write.
    """
    few = len(names) <= MANY_CLASSES
    half = LONGEST // 2  # the names of cars differ at both ends
    names = [name if len(name) <= LONGEST else f"{name[:half]}…{name[-half + 1 :]}" for name in names]
    side = 2 + (0.42 * len(names) + 0.09 * max(max(map(len, names)) - 10, 0) if few else 7)  # room for the names
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if few:
        axes.set_xticks(range(len(names)), map(figure_text, names), rotation=90)
        axes.set_yticks(range(len(names)), map(figure_text, names))
        for row, column in zip(*np.nonzero(confusion)):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    by = "" if few else ", by number"
    axes.set(xlabel=f"predicted class{by}", ylabel=f"requested class{by}")
    figure.colorbar(picture, shrink=0.7, label="share of the requested class")
    save_figure(figure, path, dpi=110)


def save_closest(
    found: Memorisation, samples: np.ndarray, training: np.ndarray, path: Path, count: int = 10
) -> list[dict]:
    """Draw the samples nearest to a training image above that image, the nearest first; returns the pairs.

    Args:
        found: The measurement.
        samples: uint8 (N, C, H, W).
        training: uint8 (M, C, H, W).
        path: PNG file to write.
        count: Pairs to draw.
    """
    pairs = found.closest(count)
    rows = [samples[[pair["sample"] for pair in pairs]], training[[pair["training"] for pair in pairs]]]
    images = np.concatenate(rows).transpose(0, 2, 3, 1)  # (2 · pairs, H, W, C)
    save_labelled_grid(images[None], ["sample", "nearest training image"], [""], path)
    return pairs


def save_distances(found: Memorisation, path: Path) -> None:
    """Draw how far samples and held-out real images are from their nearest training images."""
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot()
    bins = np.linspace(0, max(found.distances.max(), found.held_out_distances.max()), 50).tolist()
    for distances, colour, label in (
        (found.held_out_distances, GREY, "held-out real images"),
        (found.distances, BLUE, "samples"),
    ):
        axes.hist(distances, bins, density=True, histtype="stepfilled", alpha=0.35, color=colour)
        axes.hist(distances, bins, density=True, histtype="step", color=colour, label=f"{len(distances)} {label}")
    axes.axvline(found.threshold, color=ORANGE, linestyle="--", label="nearer than chance explains")
    axes.set(xlabel="distance to the nearest training image, in features", ylabel="density", xlim=(0, None))
    axes.legend()
    save_figure(figure, path, dpi=120)


def save_extrapolation(found: Extrapolation, distance: str, path: Path) -> None:
    """Draw the distance at several numbers of images over 1/N, and the straight line to infinitely many."""
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    axes.plot(1 / found.sizes, found.distances, "o", color=BLUE, label="measured")
    ends = np.array([0, 1 / found.sizes.min()])
    infinity = found.estimate.value
    axes.plot(ends, infinity + found.slope * ends, color=GREY, label=f"infinitely many images: {infinity:.3g}")
    axes.plot(0, infinity, "s", color=ORANGE)
    axes.set(xlabel="1 / number of images", ylabel=figure_text(distance), xlim=(0, None))
    axes.legend()
    save_figure(figure, path, dpi=120)
