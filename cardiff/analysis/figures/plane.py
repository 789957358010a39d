"""The plane of structure and sampling error."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cardiff.analysis.figures.labels import name_points
from cardiff.analysis.figures.style import DPI, WIDTH, finish, legend
from cardiff.analysis.optimum import Point
from cardiff.plotting import BLUE, ORANGE, save_figure


def draw_plane(
    points: dict[str, tuple[Point, bool, bool]],
    family: dict[float, Point],
    front: Sequence[Point],
    bounds: Mapping[str, Sequence[Point]],
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

        def line(found: Collection[Point], norm: str = norm) -> tuple[list[float], list[float]]:
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
        finish(axis)
    axes[0].set_ylabel(f"relative squared error with {steps} {solver.upper()} steps")
    legend(figure, axes[0], columns=3)
    figure.draw_without_rendering()
    for axis, norm in zip(axes, ("pixels", "octaves")):
        places = {name: (p.structure, getattr(p, norm)) for name, (p, *_) in points.items()}
        # Where every member of the family is nearly idle on these images there is none to name.
        marks = {f"κ={k:g}": (family[k].structure, getattr(family[k], norm)) for k in sorted(family)[-1:]}
        curves = [(p.structure, getattr(p, norm)) for found in (family.values(), front, bounds[norm]) for p in found]
        name_points(axis, places | marks, curves)
    save_figure(figure, path, dpi=DPI)
