"""Places for names beside lines and points."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cardiff.analysis.measures import first_below
from cardiff.markup import figure_text
from cardiff.plotting import LIGHT_GREY


def name_lines(axis: Axes, lines: Sequence[tuple[str, np.ndarray]], coloured: Sequence[np.ndarray]) -> None:
    """Small names on falling lines (T,), each at the height where it is far from other names and coloured lines."""
    heights = np.linspace(0.1, 0.92, 83)
    placed: list[np.ndarray] = []
    unit = np.array([0.14, 0.035])  # about the size of a name

    def spots_of(values: np.ndarray) -> np.ndarray:
        return np.stack([[first_below(values, height) for height in heights], heights], axis=1) / unit

    crossings = np.concatenate([spots_of(line) for line in coloured])
    for name, values in lines:
        spots = spots_of(values)
        t = spots[:, 0] * unit[0]
        from_names = np.min([np.abs(spots - spot).max(1) for spot in placed] or [np.full(len(spots), 9.0)], axis=0)
        from_colours = np.abs(spots[:, None] - crossings).max(2).min(1)
        inside = (t > 0.08) & (t < 0.93)
        best = int(np.argmax(9 * inside + 3 * np.minimum(from_names, 1.3) + np.minimum(from_colours, 0.8)))
        placed.append(spots[best])
        axis.annotate(
            figure_text(name),
            (t[best], heights[best]),
            fontsize=7.5,
            color="#4d4d4d",
            ha="center",
            va="center",
            bbox={"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85},
            zorder=3,
        )


def name_points(axis: Axes, places: dict[str, tuple[float, float]], curves: Sequence[tuple[float, float]]) -> None:
    """Names beside points, where they cover neither each other, nor points, nor curves, as far as there is room."""
    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    points = axis.transData.transform(list(places.values()))
    dense = [axis.transData.transform(p) for p in curves]
    inside = axis.get_window_extent(renderer)
    taken: list[np.ndarray] = []
    directions = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    # Those with the most neighbours choose first.
    crowd = [(np.hypot(*(points - point).T) < 150).sum() for point in points]
    for i in np.argsort(crowd)[::-1]:
        name = list(places)[i]
        text = axis.text(0, 0, figure_text(name), fontsize=8, transform=None)
        extent = text.get_window_extent(renderer)
        width, height = extent.width, extent.height
        found = []  # what a place costs, and the place
        for reach in (13, 20, 30, 45, 62, 80, 100):
            for dx, dy in directions:
                x = points[i, 0] + reach * dx + (0 if dx > 0.3 else -width if dx < -0.3 else -width / 2)
                y = points[i, 1] + reach * dy - height / 2
                box = np.array([x - 2, y - 1, x + width + 2, y + height + 1])
                cost = reach / 40 + _covered(box, points) * 4 + _covered(box, dense) * 2
                cost += 10 * sum(_overlap(box, other) for other in taken)
                cost += 50 * (box[0] < inside.x0 or box[2] > inside.x1 or box[1] < inside.y0 or box[3] > inside.y1)
                found.append((cost, box))
        _, box = min(found, key=lambda place: place[0])
        taken.append(box)
        text.remove()
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        far = np.hypot(*np.maximum(np.maximum(box[:2] - points[i], points[i] - box[2:]), 0)) > 14
        axis.annotate(
            figure_text(name),
            places[name],
            tuple(axis.transData.inverted().transform(middle)),
            fontsize=8,
            ha="center",
            va="center",
            color="#333333",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": LIGHT_GREY, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _covered(box: np.ndarray, points: np.ndarray | Sequence[np.ndarray]) -> int:
    x, y = np.asarray(points).reshape(-1, 2).T
    return int(((x > box[0] - 4) & (x < box[2] + 4) & (y > box[1] - 4) & (y < box[3] + 4)).sum())


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
