"""Animations of the reverse process: x_t and x̂₀ side by side below the noise schedule, a frame for each step."""

import math
import re
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageColor, ImageDraw, ImageFont

from cardiff.files import write_file
from cardiff.markup import FONT, drawable
from cardiff.plotting import BLUE, GREY, LIGHT_GREY, ORANGE, PAPER, TEXT, new_figure, wrapped
from cardiff.sampling.draw import Plan
from cardiff.sampling.film import FILM, film_of
from cardiff.sampling.trajectory import Trajectory, record

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {"disposal": 1}),
    ".webp": ("WEBP", {"lossless": True, "quality": 50}),  # of lossless files, quality is the effort
    ".png": ("PNG", {"disposal": 0}),
    ".apng": ("PNG", {"disposal": 0}),
}
"""By the ending of a file: Pillow's name of the format, and its options. Films are in film.py."""
ENDINGS = [*FORMATS, FILM]
STEPS_TIME, SHORTEST, LONGEST = 5000, 40, 400
"""Milliseconds of all steps together, and of one at least and at most."""
FIRST, LAST = 1000, 3000
"""Milliseconds of the pure noise and of the finished images."""
LARGEST_TILE, SMALLEST_TILE = 160, 64
"""Width of an image in pixels: the largest of these at which the frame still fits."""
CAPTION_WIDTHS, CAPTION_LINES = (84, 104, 124), 3
"""Widths in pixels to try for names that are too long for their image, and lines of a name at most."""
WIDEST, HIGHEST = 1280, 960
"""Pixels of a frame that fits."""
NARROWEST, PLOT_HEIGHT, MARGIN, GAP = 480, 150, 12, 6


def draw_animation(plan: Plan, path: Path, state: PartialState) -> Path:
    """Draw the plan, animated, into a file, and return the file; arguments as of `record` and `save`."""
    trajectory = record(plan, state)
    if state.is_main_process:
        save(trajectory, path)
    return path


def save(trajectory: Trajectory, path: Path) -> None:
    """Write an animation that repeats, or a film: pure noise first, the finished images last, both held longer.

    Args:
        trajectory: Of each step a frame.
        path: File to write, in the format of its extension, one of ENDINGS.

    Raises:
        ModuleNotFoundError: PyAV is missing, which writes films.
    """
    frames = (frame(trajectory, step) for step in range(trajectory.steps + 1))
    if path.suffix.lower() == FILM:
        film = film_of(frames, durations(trajectory.steps))
        write_file(path, lambda file: file.write_bytes(film))
        return
    kind, options = FORMATS[path.suffix.lower()]
    pictures = map(Image.fromarray, frames)
    first, *others = map(_with_palette, pictures) if kind == "GIF" else pictures
    options = {**options, "save_all": True, "append_images": others, "duration": durations(trajectory.steps)}
    write_file(path, lambda file: first.save(file, kind, loop=0, **options))


def durations(steps: int) -> list[int]:
    """Milliseconds of each of the n + 1 frames of n steps, whole hundredths of a second as GIF has them."""
    one = min(max(STEPS_TIME // steps // 10 * 10, SHORTEST), LONGEST)
    return [FIRST, *[one] * (steps - 1), LAST]


def _with_palette(picture: Image.Image) -> Image.Image:
    """In 256 colours, chosen for this frame, but for those of paper, text and plot, which would flicker."""
    fixed = [PAPER, TEXT, *(ImageColor.getrgb(name) for name in (ORANGE, BLUE, GREY, LIGHT_GREY))]
    chosen = picture.quantize(256 - len(fixed), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    indices = np.asarray(chosen) + np.uint8(len(fixed))
    pixels = np.asarray(picture.convert("RGBX")).view(np.uint32)[..., 0]
    for index, colour in enumerate(fixed):
        indices[pixels == np.array([*colour, 255], np.uint8).view(np.uint32)] = index
    mapped = Image.fromarray(indices).convert("P")
    mapped.putpalette([part for colour in fixed for part in colour] + (chosen.getpalette() or []))
    return mapped


def frame(trajectory: Trajectory, step: int) -> np.ndarray:
    """One frame, uint8 (H, W, 3), of equal size for all steps.

    Args:
        trajectory: What is shown.
        step: How many of the n steps have been taken: 0 shows pure noise, and n the finished images.
    """
    grid, finished = trajectory.grid, step == trajectory.steps
    names = tuple(grid.names[i // grid.columns] for i in range(trajectory.images.shape[1]))
    levels = tuple(trajectory.schedule.tolist()), tuple(trajectory.timesteps.tolist())
    stage = _stage(trajectory.images.shape, names, tuple(grid.titles), *levels)
    if finished:
        moment = (f"step {step} of {step}", "t = 0", "finished images")
    else:
        moment = (
            f"step {step} of {trajectory.steps}",
            f"t = {trajectory.timesteps[step]}",
            "log-SNR " + f"{trajectory.log_snr[step]:.2f}".replace("-", "−").replace("inf", "∞"),
        )
    right = trajectory.images if finished else trajectory.clean[step]
    timestep = 0 if finished else int(trajectory.timesteps[step])
    return stage.draw(trajectory.noisy[step], right, timestep, moment)


@lru_cache(maxsize=8)
def _stage(
    shape: tuple[int, ...],
    names: tuple[str, ...],
    titles: tuple[str, ...],
    schedule: tuple[float, ...],
    timesteps: tuple[int, ...],
) -> "_Stage":
    return _Stage(shape, names, titles, schedule, timesteps)


class _Stage:
    """What all frames have in common: the layout, the names and the plot.

    Args:
        shape: (blocks, images, H, W, C).
        names: Of the images; "" for none.
        titles: Of the blocks.
        schedule: Log-SNR of each timestep.
        timesteps: Those that are visited.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        names: tuple[str, ...],
        titles: tuple[str, ...],
        schedule: tuple[float, ...],
        timesteps: tuple[int, ...],
    ):
        self.blocks, self.count, self.height, self.width, _ = shape
        self.font, self.small = _font(14), _font(12)
        self.line, self.small_line = (sum(font.getmetrics()) for font in (self.font, self.small))
        self.names, self.titles = [drawable(name) for name in names], [drawable(title) for title in titles]
        words = [word for name in self.names for word in re.findall(r"[^\s/_-]+[/_-]*", name)]
        self.longest = max((self.small.getlength(word) for word in words), default=0)
        self._arrange()
        self.background = Image.new("RGB", self.size, PAPER)
        self._draw_background()
        plot, self.places = _plot(self.size[0] - 2 * MARGIN, schedule, timesteps)
        self.background.paste(Image.fromarray(plot), (MARGIN, self.plot_top))

    def _zooms(self) -> list[float]:
        """Zoom factors to try: whole ones, from the largest images, then reductions."""
        whole = [zoom for zoom in range(LARGEST_TILE // self.width, 0, -1) if zoom * self.width >= SMALLEST_TILE]
        reductions = [eighths / 8 for eighths in range(7, 0, -1)]
        fitting = [zoom for zoom in reductions if SMALLEST_TILE <= zoom * self.width <= LARGEST_TILE]
        return [*whole, *fitting] or [1]

    def _arrange(self) -> None:
        """Set the layout: of those that fit, the one with the largest images and the fewest empty places.

        A block is two panes side by side, and a pane has all images of a scale.
        """
        ranked = []
        for zoom, columns, per_line in product(self._zooms(), range(1, self.count + 1), range(1, self.blocks + 1)):
            self._measure(zoom, columns, per_line)
            fits = self.size[0] <= WIDEST and self.size[1] <= HIGHEST
            filled = self.count / (columns * math.ceil(self.count / columns))
            extent = max(self.size[0] / 1.5, self.size[1])  # screens are wider than high
            ranked.append((not fits, -zoom * filled**2 if fits else 0, extent, zoom, columns, per_line))
        self._measure(*min(ranked)[3:])

    def _measure(self, zoom: float, columns: int, per_line: int) -> None:
        """Set all sizes for this zoom, and this many images in a line of a pane and blocks in a line of the frame."""
        self.zoom, self.columns, self.per_line = zoom, columns, per_line
        self.tile = max(1, round(self.width * zoom)), max(1, round(self.height * zoom))
        cell, self.captions = self._captions()
        below = max(map(len, self.captions)) * self.small_line
        self.pitch = cell + GAP, self.tile[1] + GAP + below
        self.pane = max(columns * self.pitch[0] - GAP, 110), math.ceil(self.count / columns) * self.pitch[1]
        self.block_width = 2 * self.pane[0] + 4 * GAP
        self.lines_of_titles = [_in_lines(title, self.font, max(self.block_width, 280)) for title in self.titles]
        title = max(map(len, self.lines_of_titles)) * self.line
        self.head = title + GAP + self.line + GAP  # title, names of the panes
        title_width = max(_length(text, self.font) for lines in self.lines_of_titles for text in lines)
        self.step_x = max(self.block_width, title_width) + 2 * MARGIN
        self.step_y = self.head + self.pane[1] + MARGIN
        self.plot_top = MARGIN + self.line + GAP
        self.top = self.plot_top + PLOT_HEIGHT + GAP
        width = max(NARROWEST, per_line * self.step_x)
        self.left = (width - per_line * self.step_x) // 2
        # Even numbers, which every program that converts films takes.
        height = self.top + math.ceil(self.blocks / per_line) * self.step_y
        self.size = width + width % 2, height + height % 2

    def _captions(self) -> tuple[int, list[list[str]]]:
        """The names in lines, and the width for them: an image's, or more where names would be shortened or broken."""
        for width in (self.tile[0], *(wide for wide in CAPTION_WIDTHS if wide > self.tile[0])):
            captions = [_in_lines(name, self.small, width, CAPTION_LINES) for name in self.names]
            if self.longest <= width and captions == [_in_lines(name, self.small, width) for name in self.names]:
                break
        return width, captions

    def _corner(self, block: int) -> tuple[int, int]:
        """Of a block: the left end of its first pane, and the upper end of its title."""
        line, place = divmod(block, self.per_line)
        x = self.left + place * self.step_x + (self.step_x - self.block_width) // 2
        return x, self.top + line * self.step_y

    def _place(self, block: int, side: int, image: int) -> tuple[int, int]:
        """The upper left corner of an image."""
        x, y = self._corner(block)
        row, column = divmod(image, self.columns)
        in_row = min(self.columns, self.count)
        inset = (self.pane[0] - in_row * self.pitch[0] + GAP) // 2
        x += side * (self.pane[0] + 4 * GAP) + inset + (self.pitch[0] - GAP - self.tile[0]) // 2
        return x + column * self.pitch[0], y + self.head + row * self.pitch[1]

    def _draw_background(self) -> None:
        pen = ImageDraw.Draw(self.background)
        for block, lines in enumerate(self.lines_of_titles):
            x, y = self._corner(block)
            for number, text in enumerate(lines):
                middle = x + self.block_width / 2
                pen.text((middle, y + number * self.line), text, TEXT, self.font, anchor="ma")
            for side, text in enumerate(("noisy image xₜ", "estimate x̂₀")):
                middle = x + side * (self.pane[0] + 4 * GAP) + self.pane[0] / 2
                pen.text((middle, y + self.head - GAP - self.line), text, GREY, self.font, anchor="ma")
                for image, caption in enumerate(self.captions):
                    left, top = self._place(block, side, image)
                    for number, part in enumerate(caption):
                        where = left + self.tile[0] / 2, top + self.tile[1] + 2 + number * self.small_line
                        pen.text(where, part, TEXT, self.small, anchor="ma")

    def draw(self, noisy: np.ndarray, clean: np.ndarray, timestep: int, moment: tuple[str, ...]) -> np.ndarray:
        """A frame.

        Args:
            noisy: Of the left panes; uint8 (blocks, images, H, W, C).
            clean: Of the right panes.
            timestep: Where the marker is.
            moment: What is written above the plot.
        """
        picture = self.background.copy()
        pen = ImageDraw.Draw(picture)
        for place, text in enumerate(moment):  # at fixed places, so that nothing jumps
            pen.text((MARGIN + place * 160, MARGIN), text, TEXT, self.font)
        x, y = self.places[timestep]
        picture.paste(ORANGE, (round(x) + MARGIN - 7, round(y) + self.plot_top - 7), _disc(7))
        for side, blocks in enumerate((noisy, clean)):
            for block, images in enumerate(blocks):
                for number, image in enumerate(images):
                    picture.paste(self._tile(image), self._place(block, side, number))
        return np.asarray(picture)

    def _tile(self, image: np.ndarray) -> Image.Image:
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        return picture.resize(self.tile, Image.Resampling.NEAREST if self.zoom >= 1 else Image.Resampling.LANCZOS)


def _plot(width: int, schedule: tuple[float, ...], timesteps: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Log-SNR over t, a dot at each visited timestep; uint8 (H, W, 3), and the pixel (x, y) of each t, (T, 2)."""
    figure = new_figure(width / 100, PLOT_HEIGHT / 100)
    axes = figure.add_subplot()
    levels = np.array(schedule)
    axes.plot(levels, color=LIGHT_GREY, linewidth=1.2)
    axes.plot(timesteps, levels[list(timesteps)], ".", color=BLUE, markersize=4 if len(timesteps) <= 100 else 1)
    axes.margins(x=0.02)
    axes.set_xlabel("t", fontsize=9)
    axes.set_ylabel("log-SNR", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    places = axes.transData.transform(np.stack([np.arange(len(levels)), levels], axis=1))
    places[:, 1] = len(picture) - places[:, 1]
    return picture, places


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


# Every layout that is tried measures the same texts.
_in_lines = lru_cache(maxsize=1024)(wrapped)


@lru_cache(maxsize=1024)
def _length(text: str, font: ImageFont.FreeTypeFont) -> int:
    return math.ceil(font.getlength(text))


@lru_cache
def _disc(radius: int) -> Image.Image:
    """A mask with smooth edges."""
    large = Image.new("L", (8 * radius, 8 * radius))
    ImageDraw.Draw(large).ellipse((0, 0, 8 * radius - 1, 8 * radius - 1), 255)
    return large.resize((2 * radius, 2 * radius), Image.Resampling.BOX)
