"""The schedules of a comparison, each with its measures and its distance from the front."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cardiff.analysis.catalogue import choose_schedules
from cardiff.analysis.measures import DataMeasures, ScheduleMeasures, measure_schedule
from cardiff.analysis.optimum import Optimum, point_of
from cardiff.analysis.options import AnalysisOptions
from cardiff.config.schedules_by_name import OURS, PUBLISHED, alphas_cumprod_of
from cardiff.diffusion.levels import log_snr_of
from cardiff.markup import escape
from cardiff.schedulers import SCHEDULES

OWN_CONFIG, OPTIMUM = "this configuration", "optimum in 17 knots"
SCHEDULE_WORK = 8
"""Time of a schedule in parts of the progress bar."""


@dataclass(frozen=True)
class Row:
    """A schedule of the table."""

    measures: ScheduleMeasures
    origin: str
    """published, ours, or yours."""
    distance: float
    """Of Optimum.distance; not finite if no search found a schedule with as much structure."""


def measure_rows(
    options: AnalysisOptions,
    data: DataMeasures,
    section: dict | None,
    written: dict[str, dict],
    front: Optimum,
    start: np.ndarray,
    progress: Callable[[int], object],
) -> tuple[list[Row], list[str]]:
    """Measure every schedule that is compared.

    Args:
        options: Which schedules, and for which solver and number of steps.
        data: The data set.
        section: The `scheduler` section to compare as OWN_CONFIG, or None.
        written: Sections computed for the data set: "spectral", "optimal" and others, which are not rows.
        front: The optimisation that distances are measured with.
        start: Log-SNRs from which its search starts; (T,).
        progress: Called with SCHEDULE_WORK after each schedule.

    Returns:
        The rows in no order, and a sentence on each schedule that has none.

    Raises:
        UserError: A schedule that was asked for by name cannot be built.
    """
    spectral = {key: value for key, value in written["spectral"].items() if key not in ("name", "kappa")}
    sections = choose_schedules(options.schedules, spectral, options.allow_code)
    if section is not None:
        sections[OWN_CONFIG] = section
    by_name = "spectral" if options.kappa == 0 else f"spectral κ={options.kappa:g}"
    sections.setdefault(by_name, written["spectral"])
    sections[OPTIMUM] = written["optimal"]
    rows, notes = [], []
    tables: dict[str, np.ndarray] = {}
    for name, chosen in sections.items():
        try:
            alphas_cumprod = alphas_cumprod_of({**chosen, "num_train_timesteps": options.num_train_timesteps})
        except ValueError as error:
            if options.schedules != "all" or name == OWN_CONFIG:
                raise
            notes.append(f"{escape(name)} is missing: {escape(str(error))}")
            progress(SCHEDULE_WORK)
            continue
        same = next((other for other, table in tables.items() if np.array_equal(table, alphas_cumprod)), None)
        if name == OWN_CONFIG and same:
            notes.append(f"The configuration's own schedule is {escape(same)}.")
            progress(SCHEDULE_WORK)
            continue
        tables[name] = alphas_cumprod
        measures = measure_schedule(name, alphas_cumprod, data)
        target = point_of(front.spectrum, measures.log_snr, options.solver, options.steps)
        distance = front.distance(target, start)[0]
        if not np.isfinite(distance):  # one with as much structure may be nearer
            distance = front.distance(target, measures.log_snr)[0]
        ours = name in OURS or name in (OPTIMUM, by_name) or chosen["name"] in ("octave", "spectral")
        published = name in PUBLISHED or name in SCHEDULES
        rows.append(Row(measures, "ours" if ours else "published" if published else "yours", distance))
        progress(SCHEDULE_WORK)
    return rows, notes


def log_snr_table(section: dict, options: AnalysisOptions) -> np.ndarray:
    """Log-SNR of a `scheduler` section; (T,)."""
    return log_snr_of(alphas_cumprod_of({**section, "num_train_timesteps": options.num_train_timesteps}))
