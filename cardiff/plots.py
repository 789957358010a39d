"""Pictures of samples."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT, PAPER = (30, 30, 30), (255, 255, 255)


def save_labelled_grid(
    blocks: np.ndarray, row_names: Sequence[str], block_titles: Sequence[str], path: Path, zoom: int | None = None
) -> None:
    """Draw a grid with a named row per class and a titled block of columns per setting.

    Args:
        blocks: uint8 (blocks, rows · columns, H, W, C), row by row.
        row_names: One per row; "" for none.
        block_titles: One per block; "" for none.
        path: PNG file to write.
        zoom: Screen pixels per image pixel; by default what makes an image about 64 pixels wide.
    """
    count, per_block, height, width, _ = blocks.shape
    rows = len(row_names)
    columns = per_block // rows
    zoom = zoom or max(1, round(64 / width))
    height, width, gap = height * zoom, width * zoom, max(1, zoom // 2)
    font = ImageFont.load_default(size=max(12, min(20, height // 3)))
    left = max((math.ceil(font.getlength(name)) for name in row_names), default=0)
    left = left + 16 if left else 8
    top = 2 * font.size if any(block_titles) else 8
    block_width = columns * (width + gap) + 12
    picture = Image.new("RGB", (left + count * block_width, top + rows * (height + gap) + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(row_names):
        draw.text((left - 8, top + row * (height + gap) + height / 2), name, TEXT, font, anchor="rm")
    for b, title in enumerate(block_titles):
        draw.text((left + b * block_width + (block_width - 12) / 2, top / 2), title, TEXT, font, anchor="mm")
        for i, image in enumerate(blocks[b]):
            corner = left + b * block_width + (i % columns) * (width + gap), top + (i // columns) * (height + gap)
            tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            picture.paste(tile.resize((width, height), Image.Resampling.NEAREST), corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
