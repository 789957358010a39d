"""What the figures share: size, colours, lines, grid and legend.

Some schedules have a colour and a line style of their own (colours of Okabe and Ito, "Color Universal Design", 2008,
told apart by every kind of colour vision); the others are thin grey lines, so that no picture has more lines than a
reader can tell apart.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiff.analysis.measures import ScheduleMeasures
from cardiff.markup import legend_text
from cardiff.plotting import BLUE, GREEN, LIGHT_BLUE, LIGHT_GREY, ORANGE, PINK, YELLOW

WIDTH, DPI = 10.0, 150  # inches, pixels an inch
STYLES = {
    "linear": (BLUE, (0, (6, 2))),
    "cosine": (GREEN, (0, (5, 1.5, 1, 1.5))),
    "sigmoid τ=0.5": (LIGHT_BLUE, (0, (1.2, 1.2))),
    "EDM ρ=7": (YELLOW, (0, (2.5, 1))),
    "Laplace": (PINK, (0, (3, 1, 1, 1, 1, 1))),
    "spectral": (ORANGE, "-"),
    "spectral κ=4": ("#000000", "-"),
}
"""Colour and line style of the schedules that are followed through all figures."""


def choose_styles(names: Sequence[str]) -> dict[str, tuple]:
    """Colour and line style of up to seven schedules: those of STYLES, then the first others of names."""
    chosen = {name: STYLES[name] for name in names if name in STYLES}
    free = [style for name, style in STYLES.items() if name not in chosen]
    others = [name for name in names if name not in chosen]
    chosen.update(zip(others, free))
    return {name: chosen[name] for name in names if name in chosen}


def choose_landmarks(schedules: Sequence[ScheduleMeasures], count: int = 8) -> list[ScheduleMeasures]:
    """The schedules for figures with one panel or row each: those with a style, then the first others."""
    styles = choose_styles([m.name for m in schedules])
    others = [m.name for m in schedules if m.name not in styles]
    kept = {*styles, *others[: count - len(styles)]}
    return [m for m in schedules if m.name in kept]


def draw_lines(axis: Axes, schedules: Sequence[ScheduleMeasures], values: Callable) -> None:
    """One measure of all schedules over t."""
    styles = choose_styles([m.name for m in schedules])
    for measures in schedules:
        if measures.name not in styles:
            axis.plot(times(measures), values(measures), color=LIGHT_GREY, lw=0.7, zorder=1)
    if len(styles) < len(schedules):
        axis.plot([], [], color=LIGHT_GREY, lw=0.7, label=f"the other {len(schedules) - len(styles)}")
    for measures in schedules:
        if measures.name in styles:
            colour, dashes = styles[measures.name]
            look = {"color": colour, "ls": dashes, "lw": 2, "label": legend_text(measures.name), "zorder": 2}
            axis.plot(times(measures), values(measures), **look)
    axis.set_xlabel("t: 0 image, 1 noise")
    axis.set_xlim(0, 1)
    finish(axis)


def finish(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6e6e6", lw=0.6)
    axis.set_axisbelow(True)


def legend(figure: Figure, axis: Axes, columns: int = 4) -> None:
    lines, names = axis.get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside lower center", ncols=columns, fontsize=9.5, frameon=False, handlelength=3.2
    )


def times(measures: ScheduleMeasures) -> np.ndarray:
    return (np.arange(len(measures.log_snr)) + 1) / len(measures.log_snr)
