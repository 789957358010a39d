"""Figures of a comparison: every metric over guidance and cost, and images from the same noise."""

from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiff.evaluation.compare.candidates import Candidate, Setting, base_setting, shortest
from cardiff.evaluation.compare.comparison import Comparison
from cardiff.evaluation.images import read_folder
from cardiff.evaluation.reports.evaluation import arrow, rows_by_class, shown_classes
from cardiff.evaluation.reports.wording import name_with
from cardiff.markup import figure_text, legend_text
from cardiff.plotting import COLOURS, GREY, new_figure, save_figure, save_labelled_grid

CURVES = ("fid", "kid", "precision", "recall", "accuracy", "diversity")
SHOWN_IMAGES = 6


def draw_curves(comparison: Comparison, path: Path) -> None:
    """Each metric over the guidance scale; a line for each run, solver and number of steps."""
    figure, panels = _panels(comparison)
    styles = ("-", "--", ":", "-.")
    for candidate in comparison.candidates:
        for turn, (solver, steps) in enumerate(dict.fromkeys((s.solver, s.steps) for s in candidate.settings)):
            same = [s for s in candidate.settings if (s.solver, s.steps) == (solver, steps)]
            colour = COLOURS[turn % len(COLOURS)] if candidate.conditional else GREY
            label = f"{legend_text(candidate.name)}, {solver} {steps}"
            for name, panel in panels.items():
                found = _line(candidate, same, name)
                if found is None:
                    continue
                values, bars = found
                if candidate.conditional:
                    scales = [s.guidance_scale for s in same if s.guidance_scale is not None]  # all of them
                    panel.errorbar(
                        scales, values, bars, label=label, marker="o", markersize=3, color=colour, capsize=2
                    )
                else:
                    panel.axhline(values[0], color=colour, linestyle=styles[turn % len(styles)], label=label)
    for panel in panels.values():
        panel.set(xlabel="guidance scale w")
    _finish(figure, panels, path)


def draw_steps(comparison: Comparison, best: dict[str, Setting], path: Path) -> bool:
    """Each metric over the network evaluations per image; False if there is only one number of steps."""
    if len({setting.steps for candidate in comparison.candidates for setting in candidate.settings}) < 2:
        return False
    figure, panels = _panels(comparison)
    turn, costs = 0, set[float]()
    for candidate in comparison.candidates:
        scales = [base_setting(candidate).guidance_scale, best[candidate.name].guidance_scale]
        for scale, solver in dict.fromkeys((w, s.solver) for w in scales for s in candidate.settings):
            same = [s for s in candidate.settings if (s.solver, s.guidance_scale) == (solver, scale)]
            same = sorted(same, key=lambda s: s.steps)
            cost = [candidate.first[s][0].network_evaluations for s in same]
            costs |= set(cost)
            guided = "" if scale is None else f", w = {shortest(scale)}"
            for name, panel in panels.items():
                found = _line(candidate, same, name)
                if found is not None:
                    panel.errorbar(
                        cost,
                        *found,
                        color=COLOURS[turn % len(COLOURS)],
                        linestyle="-" if candidate.conditional else "--",
                        marker="o",
                        markersize=3,
                        capsize=2,
                        label=f"{legend_text(candidate.name)}, {solver}{guided}",
                    )
            turn += 1
    for panel in panels.values():
        panel.set(xlabel="network evaluations an image", xscale="log")
        panel.set_xticks(sorted(costs), [f"{cost:g}" for cost in sorted(costs)])
        panel.minorticks_off()
    _finish(figure, panels, path)
    return True


def draw_grids(comparison: Comparison, best: dict[str, Setting], path: Path) -> None:
    """Blocks of images from the same noise: each run without guidance, at its best, and most guided."""
    count = comparison.counts[0]
    labels = np.array(comparison.labels[:count] if comparison.labels is not None else [0] * count)
    chosen = shown_classes(labels)
    blocks, titles = [], []
    for candidate in reversed(comparison.candidates):
        most = max(candidate.settings, key=lambda s: (s.guidance_scale or 0, s == base_setting(candidate)))
        for setting in dict.fromkeys([base_setting(candidate), best[candidate.name], most]):
            drawn = read_folder(candidate.trials[setting][0].folder)
            blocks.append(rows_by_class(drawn.images[:count], labels, chosen, SHOWN_IMAGES))
            guided = f", w = {shortest(setting.guidance_scale)}" if setting.guidance_scale is not None else ""
            titles.append(f"{candidate.name}{guided}, {setting.solver} {setting.steps}")
    names = [comparison.protocol.reference.class_names[label] for label in chosen] if comparison.labels else [""]
    zoom = max(1, round(40 / blocks[0].shape[2]))
    save_labelled_grid(np.stack(blocks), names, titles, path, zoom=zoom, blocks_per_line=2)


def _line(candidate: Candidate, settings: list[Setting], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Values (S,) of a metric along settings, and their bars (2, S)."""
    found = [[t.estimates[name] for t in candidate.first[s] if name in t.estimates] for s in settings]
    if not all(found):
        return None
    values = np.array([np.mean([estimate.value for estimate in trials]) for trials in found])
    if len(found[0]) > 1:
        spread = np.array([np.std([estimate.value for estimate in trials], ddof=1) for trials in found])
        return values, np.stack([spread, spread])
    ends = np.array([trials[0].interval() for trials in found])
    return values, np.maximum(np.stack([values - ends[:, 0], ends[:, 1] - values]), 0)


def _panels(comparison: Comparison) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each metric that is drawn."""
    protocol = comparison.protocol
    names = [name for name in CURVES if name in protocol.names] or list(protocol.names)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, 3.2 * rows + 0.4)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[len(names) :]:
        panel.axis("off")
    panels = dict(zip(names, axes))
    for name, panel in panels.items():
        called = figure_text(name_with(protocol.network.distance, name))
        panel.set(ylabel=f"{called} {arrow(protocol, name)}")
        panel.grid(alpha=0.3)
    return figure, panels


def _finish(figure: Figure, panels: dict[str, Axes], path: Path) -> None:
    """One legend for all panels, and the file."""
    lines: dict[str, Artist] = {}  # a run need not be in every panel
    for panel in panels.values():
        lines |= dict(zip(*reversed(panel.get_legend_handles_labels())))
    longest = max(map(len, lines), default=0)
    columns = max(1, min(4, len(lines), int(20 * figure.get_figwidth() / (longest + 8))))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, fontsize=8)
    save_figure(figure, path, dpi=110)
