"""The laboratory's figures.

Some schedules have a colour and a line style of their own (colours of Okabe and Ito, "Color Universal Design", 2008,
told apart by every kind of colour vision); the others are thin grey lines, so that no picture has more lines than a
reader can tell apart.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cardiff.analysis.explain import octave_name
from cardiff.analysis.measures import ScheduleMeasures, first_below
from cardiff.analysis.optimum import Point
from cardiff.analysis.spectra import to_float
from cardiff.markup import figure_text, legend_text
from cardiff.plotting import BLUE, GREEN, LIGHT_BLUE, LIGHT_GREY, ORANGE, PINK, YELLOW
from cardiff.schedulers.spectrum import Spectrum

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
TIMES = 10  # columns of the strip of noised images


def choose_styles(names: Sequence[str]) -> dict[str, tuple]:
    """Colour and line style of up to seven schedules: those of STYLES, then the first others of names."""
    chosen = {name: STYLES[name] for name in names if name in STYLES}
    free = [style for name, style in STYLES.items() if name not in chosen]
    others = [name for name in names if name not in chosen]
    chosen.update(zip(others, free))
    return {name: chosen[name] for name in names if name in chosen}


def choose_landmarks(schedules: Sequence[ScheduleMeasures], count: int = 8) -> list[ScheduleMeasures]:
    """The schedules for figures with a panel or a row each: those with a style, then the first others."""
    styles = choose_styles([m.name for m in schedules])
    others = [m.name for m in schedules if m.name not in styles]
    kept = {*styles, *others[: count - len(styles)]}
    return [m for m in schedules if m.name in kept]


def draw_noising_strip(schedules: Sequence[ScheduleMeasures], images: np.ndarray, seed: int, path: Path) -> None:
    """One image under the same noise at ten equal times, a row a schedule, as the model sees it.

    Args:
        schedules: Rows.
        images: uint8 (N, C, H, W); the one with the most contrast of the first 64 is shown.
        seed: Seed of the noise.
        path: PNG file to write.
    """
    candidates = to_float(np.asarray(images[:64]))
    clean = candidates[candidates.std((1, 2, 3)).argmax()]  # (C, H, W)
    noise = np.random.default_rng(seed).standard_normal(clean.shape)
    schedules = choose_landmarks(schedules)
    figure = Figure(figsize=(WIDTH, 0.3 + 0.745 * len(schedules)), dpi=DPI)
    left, top = 0.175, 1 - 0.28 / figure.get_figheight()
    grid = figure.subplots(
        len(schedules),
        TIMES + 1,
        squeeze=False,
        gridspec_kw={"left": left, "right": 0.995, "top": top, "bottom": 0.005, "wspace": 0.04, "hspace": 0.04},
    )
    for number, (row, measures) in enumerate(zip(grid, schedules)):
        total = len(measures.log_snr)
        indices = np.round(np.arange(1, TIMES + 1) / TIMES * total).astype(int) - 1
        alphas = [1.0, *measures.alphas_cumprod[indices]]
        for axis, alpha_bar, t in zip(row, alphas, np.arange(TIMES + 1) / TIMES):
            noisy = np.sqrt(alpha_bar) * clean + np.sqrt(1 - alpha_bar) * noise
            picture = (np.clip(noisy, -1, 1).transpose(1, 2, 0) + 1) / 2
            axis.imshow(picture.squeeze(-1) if len(clean) == 1 else picture, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if number == 0:
                axis.set_title(f"t = {t:.1f}", fontsize=9, pad=4)
        box = row[0].get_position()
        figure.text(
            left - 0.01, (box.y0 + box.y1) / 2, figure_text(measures.name), ha="right", va="center", fontsize=10
        )
    figure.savefig(path)


def draw_curves(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """β, ᾱ and log-SNR over t."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 3)
    panels = [
        ("β of a step", "betas"),
        ("ᾱ, share of signal variance", "alphas_cumprod"),
        ("log-SNR (nats)", "log_snr"),
    ]
    for axis, (title, field) in zip(axes, panels):
        _draw_lines(axis, schedules, lambda m, field=field: getattr(m, field))
        axis.set_title(title, fontsize=11)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-5, 1.3)
    axes[2].set_ylim(-15, 15)
    _legend(figure, axes[0])
    figure.savefig(path)


def draw_structure(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """Octave structure over t, every schedule named."""
    figure = Figure(figsize=(WIDTH, 6.0), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    _draw_lines(axis, schedules, lambda m: m.structure)
    axis.set_ylabel("octave structure S: share of the octaves that is readable")
    axis.set_ylim(0, 1.02)
    _legend(figure, axis)
    figure.draw_without_rendering()
    styles = choose_styles([m.name for m in schedules])
    coloured = [m.structure for m in schedules if m.name in styles]
    _name_lines(axis, [(m.name, m.structure) for m in schedules if m.name not in styles], coloured)
    figure.savefig(path)


def draw_octaves(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """The readable share of each octave over t, a panel a schedule."""
    shown = choose_landmarks(schedules)
    rows = -(-len(shown) // 4)
    columns = min(4, len(shown))
    figure = Figure(figsize=(WIDTH, 0.8 + 2.5 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    octaves = shown[0].octaves.shape[1]
    # Light to dark from coarse to fine: readable in grey too.
    colours = [_blend("#7fc8f0", "#0b2545", k / max(octaves - 1, 1)) for k in range(octaves)]
    for axis, measures in zip(axes.flat, shown):
        for k in range(octaves):
            axis.plot(_times(measures), measures.octaves[:, k], color=colours[k], label=octave_name(k))
        axis.plot(_times(measures), measures.structure, color=ORANGE, ls="--", lw=1.6, label="structure S, their mean")
        axis.set_title(f"{figure_text(measures.name)}   A = {measures.mean_structure:.2f}", fontsize=10)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], xlabel="t")
        _finish(axis)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("readable share")
    _legend(figure, axes[0, 0])
    figure.savefig(path)


def draw_information(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """What x_t still tells about the image over t."""
    panels = [
        ("information on the image (nats)", "information"),
        ("information on the class (nats)", "class_information"),
        ("share of images recognised", "recovery"),
        ("SSIM of the best linear estimate", "ssim"),
    ]
    panels = [panel for panel in panels if getattr(schedules[0], panel[1]) is not None]
    figure = Figure(figsize=(WIDTH, 6.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (title, field) in zip(axes.flat, panels):
        _draw_lines(axis, schedules, lambda m, field=field: getattr(m, field))
        axis.set_title(title, fontsize=11)
        axis.set_ylim(bottom=0)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, axes[0, 0])
    figure.savefig(path)


def draw_density(schedules: Sequence[ScheduleMeasures], spectrum: Spectrum, path: Path) -> None:
    """Density of timesteps over log-SNR, with the log-SNR at which each octave is half readable."""
    figure = Figure(figsize=(WIDTH, 5.0), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    styles = choose_styles([m.name for m in schedules])
    for measures in schedules:
        if measures.name in styles:
            colour, dashes = styles[measures.name]
            middles = (measures.log_snr[1:] + measures.log_snr[:-1]) / 2
            density = -1 / len(measures.log_snr) / np.diff(measures.log_snr)
            axis.plot(middles, density, color=colour, ls=dashes, lw=2, label=legend_text(measures.name))
    axis.set_ylabel("density of timesteps −dt/dλ (per nat)")
    axis.set_xlabel("log-SNR λ (nats): noise on the left, image on the right")
    axis.set_xlim(-12, 14)
    # A schedule with nearly all its steps in one place would press the others flat.
    axis.set_ylim(0, 2 * np.median([line.get_ydata().max() for line in axis.lines]))
    places = {}
    for k in range(spectrum.octaves.max() + 1):
        inside = spectrum.octaves == k
        power = spectrum.counts[inside] @ spectrum.variances[inside] / spectrum.counts[inside].sum()
        places["mean" if k == 0 else f"{2 ** (k - 1)}–{2**k}"] = -np.log(power)
    free = [-np.inf, -np.inf, -np.inf]  # where each line of names ends
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        line = next((i for i, end in enumerate(free) if place > end), 0)
        free[line] = place + 1.2
        axis.axvline(place, color=LIGHT_GREY, lw=0.8, zorder=0)
        axis.text(place, 1.015 + 0.045 * line, name, transform=axis.get_xaxis_transform(), ha="center", fontsize=8.5)
    axis.set_title("grey: where each octave (in cycles an image) is half readable", fontsize=9.5, loc="left", pad=32)
    _finish(axis)
    _legend(figure, axis)
    figure.savefig(path)


def draw_plane(
    points: dict[str, tuple[Point, bool, bool]],
    family: dict[float, Point],
    front: Sequence[Point],
    bounds: dict[str, Sequence[Point]],
    solver: str,
    steps: int,
    path: Path,
) -> None:
    """Structure against sampling error.

    Args:
        points: Schedules by name: where they stand, whether they leak, and whether they are ours.
        family: Our spectral schedules by κ.
        front: The computed front of both errors together.
        bounds: By error, "pixels" and "octaves": the front of that error alone.
        solver: Solver of the errors.
        steps: Its number of steps.
        path: PNG file to write.
    """
    figure = Figure(figsize=(WIDTH, 6.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, norm in zip(axes, ("pixels", "octaves")):

        def line(found, norm=norm):
            return [p.structure for p in found], [getattr(p, norm) for p in found]

        axis.plot(*line(bounds[norm]), color="black", lw=1, ls=":", label="least possible error in this norm")
        axis.plot(*line(front), color="black", lw=1.6, label="computed front of both errors")
        if family:
            axis.plot(*line(family.values()), color=ORANGE, lw=2, marker="o", ms=3, label="our spectral family over κ")
        for (leaks, ours), label in {
            (False, False): "published or given",
            (True, False): "the same, but leaks signal at t = 1",
            (False, True): "ours",
            (True, True): "ours, but leaks signal at t = 1",
        }.items():
            here = [p for p, *kind in points.values() if tuple(kind) == (leaks, ours)]
            colour = ORANGE if ours else BLUE
            face = "white" if leaks else colour
            if here:
                axis.plot(*line(here), "s" if ours else "o", ms=6, mfc=face, mec=colour, label=label, ls="none")
        axis.set_yscale("log")
        axis.set_title(f"error in {norm}" if norm == "pixels" else "error by octave", fontsize=11)
        axis.set_xlabel("mean structure A")
        axis.margins(0.1)
        _finish(axis)
    axes[0].set_ylabel(f"relative squared error with {steps} {solver.upper()} steps")
    _legend(figure, axes[0], columns=3)
    figure.draw_without_rendering()
    for axis, norm in zip(axes, ("pixels", "octaves")):
        places = {name: (p.structure, getattr(p, norm)) for name, (p, *_) in points.items()}
        # Where every member of the family is nearly idle on these images there is none to name.
        marks = {f"κ={k:g}": (family[k].structure, getattr(family[k], norm)) for k in sorted(family)[-1:]}
        curves = [(p.structure, getattr(p, norm)) for found in (family.values(), front, bounds[norm]) for p in found]
        _name_points(axis, places | marks, curves)
    figure.savefig(path)


def _draw_lines(axis: Axes, schedules: Sequence[ScheduleMeasures], values: Callable) -> None:
    """One measure of all schedules over t."""
    styles = choose_styles([m.name for m in schedules])
    for measures in schedules:
        if measures.name not in styles:
            axis.plot(_times(measures), values(measures), color=LIGHT_GREY, lw=0.7, zorder=1)
    if len(styles) < len(schedules):
        axis.plot([], [], color=LIGHT_GREY, lw=0.7, label=f"the other {len(schedules) - len(styles)}")
    for measures in schedules:
        if measures.name in styles:
            colour, dashes = styles[measures.name]
            look = {"color": colour, "ls": dashes, "lw": 2, "label": legend_text(measures.name), "zorder": 2}
            axis.plot(_times(measures), values(measures), **look)
    axis.set_xlabel("t: 0 image, 1 noise")
    axis.set_xlim(0, 1)
    _finish(axis)


def _finish(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6e6e6", lw=0.6)
    axis.set_axisbelow(True)


def _legend(figure: Figure, axis: Axes, columns: int = 4) -> None:
    lines, names = axis.get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside lower center", ncols=columns, fontsize=9.5, frameon=False, handlelength=3.2
    )


def _times(measures: ScheduleMeasures) -> np.ndarray:
    return (np.arange(len(measures.log_snr)) + 1) / len(measures.log_snr)


def _blend(first: str, last: str, share: float) -> str:
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (first, last)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends))


def _name_lines(axis: Axes, lines: Sequence[tuple[str, np.ndarray]], coloured: Sequence[np.ndarray]) -> None:
    """Small names on falling lines (T,), each at the height where it is far from other names and coloured lines."""
    heights, placed = np.linspace(0.1, 0.92, 83), []
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
        place, box = (t[best], heights[best]), {"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85}
        look = {"fontsize": 7.5, "color": "#4d4d4d", "ha": "center", "va": "center", "bbox": box, "zorder": 3}
        axis.annotate(figure_text(name), place, **look)


def _name_points(axis: Axes, places: dict[str, tuple[float, float]], curves: Sequence[tuple[float, float]]) -> None:
    """Names beside points, where they cover neither each other, nor points, nor curves, as far as there is room."""
    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    points = axis.transData.transform(list(places.values()))
    dense = [axis.transData.transform(p) for p in curves]
    inside = axis.get_window_extent(renderer)
    taken = []
    directions = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    # Those with the most neighbours choose first.
    crowd = [(np.hypot(*(points - point).T) < 150).sum() for point in points]
    for i in np.argsort(crowd)[::-1]:
        name = list(places)[i]
        text = axis.text(0, 0, figure_text(name), fontsize=8, transform=None)
        extent = text.get_window_extent(renderer)
        width, height = extent.width, extent.height
        best = (np.inf, None)
        for reach in (13, 20, 30, 45, 62, 80, 100):
            for dx, dy in directions:
                x = points[i, 0] + reach * dx + (0 if dx > 0.3 else -width if dx < -0.3 else -width / 2)
                y = points[i, 1] + reach * dy - height / 2
                box = np.array([x - 2, y - 1, x + width + 2, y + height + 1])
                cost = reach / 40 + _covered(box, points) * 4 + _covered(box, dense) * 2
                cost += sum(10 for other in taken if _overlap(box, other))
                cost += 50 * (box[0] < inside.x0 or box[2] > inside.x1 or box[1] < inside.y0 or box[3] > inside.y1)
                if cost < best[0]:
                    best = (cost, box)
        box = best[1]
        taken.append(box)
        text.remove()
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        far = np.hypot(*np.maximum(np.maximum(box[:2] - points[i], points[i] - box[2:]), 0)) > 14
        axis.annotate(
            figure_text(name),
            places[name],
            axis.transData.inverted().transform(middle),
            fontsize=8,
            ha="center",
            va="center",
            color="#333333",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": LIGHT_GREY, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _covered(box: np.ndarray, points) -> int:
    x, y = np.asarray(points).reshape(-1, 2).T
    return int(((x > box[0] - 4) & (x < box[2] + 4) & (y > box[1] - 4) & (y < box[3] + 4)).sum())


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
