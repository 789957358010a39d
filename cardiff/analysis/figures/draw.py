"""All figures of a comparison."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cardiff.analysis.figures import schedules
from cardiff.analysis.figures.plane import draw_plane
from cardiff.analysis.measures import DataMeasures, measure_schedule
from cardiff.analysis.optimum import Optimum, Point, point_of
from cardiff.analysis.options import AnalysisOptions
from cardiff.analysis.ranking import Row, log_snr_table

KAPPAS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
FRONT_WORK = 2
"""Time of a point of the front in parts of the progress bar."""
MAX_IDLE = 0.1
"""Share of idle clean timesteps at which the figures' curves over κ end."""
FIGURES = {
    "noising_strip.png": "One image with the same noise at ten evenly spaced times, one row per schedule, as the "
    "model sees it (clipped to [-1, 1]).",
    "structure.png": "Octave structure S over t; its mean over t is A.",
    "plane.png": "Structure against sampling error. Above and to the left is worse; the dotted line is the least "
    "possible error in that norm, the solid black one the best of both errors together.",
    "octaves.png": "When each octave is lost.",
    "information.png": "How much information a noisy image still carries about the image and its class.",
    "density.png": "How the timesteps are distributed over log-SNR.",
    "curves.png": "β of a step, ᾱ and log-SNR.",
}
WORK = FRONT_WORK * 3 * len(KAPPAS) + len(FIGURES)
"""Time of all figures in parts of the progress bar."""


def draw_figures(
    rows: Sequence[Row],
    data: DataMeasures,
    options: AnalysisOptions,
    spectral: dict,
    front: Optimum,
    start: np.ndarray,
    folder: Path,
    progress: Callable[[int], object],
) -> None:
    """Draw every figure of FIGURES.

    Args:
        rows: The schedules, in the order of the table.
        data: The data set.
        options: Solver, sampling steps and timesteps of the errors.
        spectral: `scheduler` section of our spectral schedule, drawn as a family over κ.
        front: The optimisation that the fronts are computed with.
        start: Log-SNRs from which its search starts; (T,).
        folder: Where the PNG files are written.
        progress: Called with parts of the work, WORK in all or fewer.
    """
    measures = [row.measures for row in rows]
    family: dict[float, Point] = {}
    best: list[Point] = []
    bounds: dict[str, list[Point]] = {"pixels": [], "octaves": []}
    for kappa in KAPPAS:
        try:
            table = log_snr_table({**spectral, "kappa": kappa}, options)
        except ValueError:  # nearly all of its steps would be idle
            break
        if _idle_clean(data, table) > MAX_IDLE:
            break
        family[kappa] = point_of(front.spectrum, table, options.solver, options.steps)
    for found, pixel_weight in ((best, 0.5), (bounds["pixels"], 1.0), (bounds["octaves"], 0.0)):
        table = start
        for kappa in KAPPAS:
            table = front.best(kappa, pixel_weight, table)
            progress(FRONT_WORK)
            if _idle_clean(data, table) > MAX_IDLE:
                break
            found.append(point_of(front.spectrum, table, options.solver, options.steps))
    points = {
        row.measures.name: (
            point_of(front.spectrum, row.measures.log_snr, options.solver, options.steps),
            row.measures.leaks,
            row.origin == "ours",
        )
        for row in rows
    }
    how = {
        "noising_strip.png": lambda path: schedules.draw_noising_strip(measures, data.images, options.seed, path),
        "structure.png": lambda path: schedules.draw_structure(measures, path),
        "plane.png": lambda path: draw_plane(points, family, best, bounds, options.solver, options.steps, path),
        "octaves.png": lambda path: schedules.draw_octaves(measures, path),
        "information.png": lambda path: schedules.draw_information(measures, path),
        "density.png": lambda path: schedules.draw_density(measures, data.model.spectrum, path),
        "curves.png": lambda path: schedules.draw_curves(measures, path),
    }
    for name in FIGURES:
        how[name](folder / name)
        progress(1)


def _idle_clean(data: DataMeasures, log_snr: np.ndarray) -> float:
    return measure_schedule("", 1 / (1 + np.exp(-log_snr)), data).idle_clean
