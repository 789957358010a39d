"""Schedules side by side: images under noise, and what is measured over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cardiff.analysis.explain import octave_name
from cardiff.analysis.figures.labels import name_lines
from cardiff.analysis.figures.style import (
    DPI,
    WIDTH,
    choose_landmarks,
    choose_styles,
    draw_lines,
    finish,
    legend,
    times,
)
from cardiff.analysis.measures import ScheduleMeasures
from cardiff.analysis.spectra import to_float
from cardiff.markup import figure_text, legend_text
from cardiff.plotting import LIGHT_GREY, ORANGE, save_figure
from cardiff.schedulers.spectrum import Spectrum

TIMES = 10  # columns of the strip of noised images


def draw_noising_strip(schedules: Sequence[ScheduleMeasures], images: np.ndarray, seed: int, path: Path) -> None:
    """One image with the same noise at ten evenly spaced times, one row per schedule, as the model sees it.

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
    save_figure(figure, path, dpi=DPI)


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
        draw_lines(axis, schedules, lambda m, field=field: getattr(m, field))
        axis.set_title(title, fontsize=11)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-5, 1.3)
    axes[2].set_ylim(-15, 15)
    legend(figure, axes[0])
    save_figure(figure, path, dpi=DPI)


def draw_structure(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """Octave structure over t, every schedule named."""
    figure = Figure(figsize=(WIDTH, 6.0), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    draw_lines(axis, schedules, lambda m: m.structure)
    axis.set_ylabel("octave structure S: share of the octaves that is readable")
    axis.set_ylim(0, 1.02)
    legend(figure, axis)
    figure.draw_without_rendering()
    styles = choose_styles([m.name for m in schedules])
    coloured = [m.structure for m in schedules if m.name in styles]
    name_lines(axis, [(m.name, m.structure) for m in schedules if m.name not in styles], coloured)
    save_figure(figure, path, dpi=DPI)


def draw_octaves(schedules: Sequence[ScheduleMeasures], path: Path) -> None:
    """The readable share of each octave over t, one panel per schedule."""
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
            axis.plot(times(measures), measures.octaves[:, k], color=colours[k], label=octave_name(k))
        axis.plot(times(measures), measures.structure, color=ORANGE, ls="--", lw=1.6, label="structure S, their mean")
        axis.set_title(f"{figure_text(measures.name)}   A = {measures.mean_structure:.2f}", fontsize=10)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], xlabel="t")
        finish(axis)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("readable share")
    legend(figure, axes[0, 0])
    save_figure(figure, path, dpi=DPI)


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
        draw_lines(axis, schedules, lambda m, field=field: getattr(m, field))
        axis.set_title(title, fontsize=11)
        axis.set_ylim(bottom=0)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    legend(figure, axes[0, 0])
    save_figure(figure, path, dpi=DPI)


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
    axis.set_ylim(0, 2 * np.median([np.max(line.get_ydata()) for line in axis.lines]))
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
    finish(axis)
    legend(figure, axis)
    save_figure(figure, path, dpi=DPI)


def _blend(first: str, last: str, share: float) -> str:
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (first, last)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends))
