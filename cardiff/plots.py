"""Pictures of samples and of what classifiers read."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

TEXT, PAPER = (30, 30, 30), (255, 255, 255)


def save_labelled_grid(
    blocks: np.ndarray,
    row_names: Sequence[str],
    block_titles: Sequence[str],
    path: Path,
    zoom: int | None = None,
    blocks_per_line: int | None = None,
) -> None:
    """Draw a grid with a named row per class and a titled block of columns per setting.

    Args:
        blocks: uint8 (blocks, rows · columns, H, W, C), row by row.
        row_names: One per row; "" for none.
        block_titles: One per block; "" for none.
        path: PNG file to write.
        zoom: Screen pixels per image pixel; by default what makes an image about 64 pixels wide.
        blocks_per_line: Blocks side by side; by default all of them.
    """
    count, per_block, height, width, _ = blocks.shape
    per_line = blocks_per_line or count
    rows = len(row_names)
    columns = per_block // rows
    zoom = zoom or max(1, round(64 / width))
    height, width, gap = height * zoom, width * zoom, max(1, zoom // 2)
    font = ImageFont.load_default(size=max(12, min(20, height // 3)))
    left = max((math.ceil(font.getlength(name)) for name in row_names), default=0)
    left = left + 16 if left else 8
    top = 2 * font.size if any(block_titles) else 8
    block_width = columns * (width + gap) + 12
    line_height = top + rows * (height + gap)
    lines = math.ceil(count / per_line)
    picture = Image.new("RGB", (left + per_line * block_width, lines * line_height + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for b, title in enumerate(block_titles):
        line, place = divmod(b, per_line)
        x, y = left + place * block_width, top + line * line_height  # of the block's first image
        draw.text((x + (block_width - 12) / 2, y - top / 2), title, TEXT, font, anchor="mm")
        if place == 0:
            for row, name in enumerate(row_names):
                draw.text((left - 8, y + row * (height + gap) + height / 2), name, TEXT, font, anchor="rm")
        for i, image in enumerate(blocks[b]):
            corner = x + (i % columns) * (width + gap), y + (i // columns) * (height + gap)
            tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            picture.paste(tile.resize((width, height), Image.Resampling.NEAREST), corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def save_accuracy_curve(report: dict, path: Path) -> None:
    """Draw how well a classifier reads noised images, over log-SNR, as a PNG file.

    Args:
        report: A report of cardiff/classifier_training.py.
        path: File to write, in a folder that exists.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    clean, levels = report["clean"], report["levels"]
    log_snr = [level["log_snr"] for level in levels]
    axes.plot(log_snr, [level["accuracy"] for level in levels], marker="o", label="noised images")
    axes.axhline(clean["accuracy"], linestyle="--", color="black", label="clean images")
    axes.axhline(report["chance"], linestyle=":", color="grey", label="the most frequent class, always")
    axes.invert_xaxis()  # noise grows to the right, as time does
    axes.set(ylim=(0, 1.02), xlabel="log-SNR of the image", ylabel="share read correctly")
    axes.set_title(f"{clean['images']} held-out images, step {report['step']}")
    axes.legend()
    figure.savefig(path, dpi=120)
