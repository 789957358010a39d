"""Grids of samples, and the accuracy curve of a classifier."""

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from cardiff.files import write_file
from cardiff.markup import FONT, drawable

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's, safe for colour-blind readers
PINK, YELLOW, LIGHT_BLUE = "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, LIGHT_BLUE)
"""The palette of every figure, in the order of use."""
GREY, LIGHT_GREY = "#777777", "#9a9a9a"
"""For references: baseline curves, and marks behind curves."""
TEXT, PAPER = (30, 30, 30), (255, 255, 255)
SCREEN = 2000
"""Largest width and height in pixels at which all blocks of a grid are side by side in one panel of rows."""
LARGEST = 25_000_000
"""Number of pixels of a grid above which its images are drawn smaller."""
SMALLEST = 16
"""Smallest width in pixels to which images are reduced."""
BETWEEN = 12
"""Pixels between blocks."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, which needs neither a display nor pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Save a figure atomically, in the format of the file's extension."""
    write_file(path, partial(figure.savefig, dpi=dpi))


def save_labelled_grid(
    blocks: np.ndarray,
    row_names: Sequence[str],
    block_titles: Sequence[str],
    path: Path,
    zoom: int | None = None,
    blocks_per_line: int | None = None,
) -> None:
    """Draw a grid with a named row per class and a titled block of columns per setting.

    A grid that is larger than a screen continues in further lines of blocks, or in panels of rows next to the first.
    Long names and titles are wrapped, and the middle of a name that is still too long is omitted.

    Args:
        blocks: uint8 (blocks, rows · columns, H, W, C), row by row.
        row_names: One per row; "" for none.
        block_titles: One per block; "" for none.
        path: PNG file to write.
        zoom: Screen pixels per image pixel; by default, images are about 64 pixels wide, or smaller if the grid would
            have more than LARGEST pixels.
        blocks_per_line: Blocks side by side; by default all of them, if they fit on a screen.
    """
    names, titles = [drawable(name) for name in row_names], [drawable(title) for title in block_titles]
    for size in [zoom] if zoom else _zooms(blocks.shape[3]):
        sheet = _Sheet(blocks.shape, names, titles, size, blocks_per_line)
        if math.prod(sheet.size(sheet.per_line, sheet.panels)) <= LARGEST:
            break
    write_file(path, sheet.draw(blocks).save)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int | None = None) -> list[str]:
    """Text in lines of at most this width, in pixels.

    If that takes more than `most` lines, the middle is replaced by "…", since long class names tend to differ at their
    ends.
    """
    lines = _broken(text, font, width)
    if most is None or len(lines) <= most:
        return lines

    def shortened(kept: int) -> list[str]:
        return _broken(f"{text[: kept - kept // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}", font, width)

    return shortened(bisect_left(range(1, len(text)), True, key=lambda kept: len(shortened(kept)) > most))


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Text broken after spaces, hyphens, slashes and underscores, and within words that are longer than a line."""

    def too_long(text: str) -> bool:
        return font.getlength(text.rstrip()) > width

    lines = [""]
    for piece in re.findall(r"[^\s/_-]*[\s/_-]*", text):
        if too_long(lines[-1] + piece):
            lines.append("")
        while too_long(piece):
            fitting = max(1, bisect_left(range(1, len(piece)), True, key=lambda end: too_long(piece[:end])))
            lines[-1:], piece = [piece[:fitting], ""], piece[fitting:]
        lines[-1] += piece
    return [line.strip() for line in lines if line.strip()]


def _zooms(width: int) -> list[float]:
    """Zoom factors to try: from an image width of about 64 pixels down to 1:1, then reductions."""
    reductions = [eighths / 8 for eighths in range(7, 0, -1) if width * eighths / 8 >= SMALLEST]
    return [*range(max(1, round(64 / width)), 0, -1), *reductions]


class _Sheet:
    """The layout of a grid: blocks in lines, with the rows in panels side by side."""

    def __init__(self, shape: tuple[int, ...], names: list[str], titles: list[str], zoom: float, per_line: int | None):
        self.count, per_block, height, width, _ = shape
        self.columns = per_block // len(names)
        self.zoom, self.tile = zoom, (max(1, round(width * zoom)), max(1, round(height * zoom)))  # width, height
        gap = max(1, int(zoom) // 2)
        self.step = self.tile[0] + gap  # from column to column
        self.font = ImageFont.truetype(str(FONT), max(12, min(16, self.tile[1] // 4)))
        self.line = sum(self.font.getmetrics())
        self.pitch = max(self.tile[1] + gap, self.line if any(names) else 0)  # from row to row

        columns_width, name_lines = self.columns * self.step, self.pitch // self.line
        names_width = (14 if name_lines > 1 else 20) * self.font.size
        self.names = [wrapped(name, self.font, names_width, name_lines) for name in names]
        self.titles = [wrapped(title, self.font, max(columns_width, 10 * self.font.size)) for title in titles]
        self.left = self._width(self.names) + 16 if any(names) else 8
        self.top = max(map(len, self.titles)) * self.line + self.font.size if any(titles) else 8
        self.block_width = max(columns_width, self._width(self.titles)) + BETWEEN

        self.per_line, self.panels = per_line or self.count, 1
        width, height = self.size(self.per_line, 1)
        arrangements = [(self.per_line, 1)]
        if width > max(height, SCREEN) and per_line is None:
            arrangements = [(math.ceil(self.count / lines), 1) for lines in range(1, self.count + 1)]
        elif height > max(width, SCREEN):
            arrangements = [(self.per_line, panels) for panels in range(1, len(names) + 1)]
        self.per_line, self.panels = min(arrangements, key=self._extent)
        self.rows = math.ceil(len(names) / self.panels)

    def _width(self, texts: list[list[str]]) -> int:
        return max((math.ceil(self.font.getlength(line)) for lines in texts for line in lines), default=0)

    def _extent(self, arrangement: tuple[int, int]) -> float:
        """The longer side of the picture, with the width divided by 1.5, since screens are wider than high."""
        width, height = self.size(*arrangement)
        return max(width / 1.5, height)

    def size(self, per_line: int, panels: int) -> tuple[int, int]:
        """Width and height for this many blocks per line and panels."""
        rows, lines = math.ceil(len(self.names) / panels), math.ceil(self.count / per_line)
        width = panels * (self.left + per_line * self.block_width)
        return width, lines * (self.top + rows * self.pitch) + 8

    def draw(self, blocks: np.ndarray) -> Image.Image:
        """The picture."""
        picture = Image.new("RGB", self.size(self.per_line, self.panels), PAPER)
        pen = ImageDraw.Draw(picture)
        for b, title in enumerate(self.titles):
            line, place = divmod(b, self.per_line)
            for row, name in enumerate(self.names):
                panel, below = divmod(row, self.rows)
                x = panel * (self.left + self.per_line * self.block_width) + self.left + place * self.block_width
                y = line * (self.top + self.rows * self.pitch) + self.top + below * self.pitch
                if below == 0:
                    self._write(pen, x + (self.block_width - BETWEEN) / 2, y - self.top / 2, title, "ma")
                if place == 0:
                    self._write(pen, x - 8, y + self.tile[1] / 2, name, "ra")
                for column in range(self.columns):
                    tile = self._tile(blocks[b, row * self.columns + column])
                    picture.paste(tile, (x + column * self.step, y))
        return picture

    def _write(self, pen: ImageDraw.ImageDraw, x: float, y: float, lines: list[str], anchor: str) -> None:
        """Draw lines of text, vertically centred at y, at x according to the anchor."""
        for i, text in enumerate(lines):
            pen.text((x, y + (i - len(lines) / 2) * self.line), text, TEXT, self.font, anchor=anchor)

    def _tile(self, image: np.ndarray) -> Image.Image:
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        return picture.resize(self.tile, Image.Resampling.NEAREST if self.zoom >= 1 else Image.Resampling.LANCZOS)


def save_accuracy_curve(report: dict, path: Path) -> None:
    """Draw a classifier's accuracy on noised images over log-SNR.

    Args:
        report: A report of cardiff/training/classifier_report.py.
        path: PNG file to write, in an existing folder.
    """
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    clean, levels = report["clean"], report["levels"]
    log_snr = [level["log_snr"] for level in levels]
    axes.plot(log_snr, [level["accuracy"] for level in levels], marker="o", label="noised images")
    axes.axhline(clean["accuracy"], linestyle="--", color="black", label="clean images")
    axes.axhline(report["chance"], linestyle=":", color="grey", label="the most frequent class, always")
    axes.invert_xaxis()  # noise grows to the right, as time does
    axes.set(ylim=(0, 1.02), xlabel="log-SNR of the image", ylabel="share classified correctly")
    axes.set_title(f"{clean['images']} validation images, step {report['step']}")
    axes.legend()
    save_figure(figure, path, dpi=120)
