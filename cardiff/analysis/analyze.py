"""The comparison of noise schedules on a data set: measured, ranked, drawn, explained and written to a folder."""

from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm

from cardiff.analysis.catalogue import choose_schedules
from cardiff.analysis.figures.draw import WORK as FIGURES_WORK
from cardiff.analysis.figures.draw import draw_figures
from cardiff.analysis.fitted_steps import Fit, fit_steps, fit_work
from cardiff.analysis.local_error import (
    LEVELS,
    local_error_work,
    measured_local_error,
    network_denoiser,
    schedule_of_local_error,
)
from cardiff.analysis.measures import GRID, measure_data, merged
from cardiff.analysis.optimum import Optimum, knots_at, knots_of
from cardiff.analysis.options import AnalysisOptions
from cardiff.analysis.ranking import SCHEDULE_WORK, log_snr_table, measure_rows
from cardiff.analysis.report import report
from cardiff.analysis.spectra import octave_arguments
from cardiff.analysis.tables import describe, fits_table, markdown_tables, write_csv, write_curves
from cardiff.config.limits import check_limits
from cardiff.config.sections import DataConfig
from cardiff.data import ImageStream, open_store
from cardiff.errors import UserError
from cardiff.files import write_text
from cardiff.hub.serialization import find_model, load_pipeline
from cardiff.outputs import owned
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.progress import shown

MEASURED_IMAGES = 64
"""Images on which the local error of a step is measured."""


def run(options: AnalysisOptions, config: DataConfig, section: dict | None = None) -> Path:
    """Compare schedules on a data set and write everything to `options.output`.

    Args:
        options: What to compare and where to write.
        config: The data set.
        section: A `scheduler` section to compare as OWN_CONFIG, or None.

    Raises:
        UserError: For options, data or a folder that cannot be used.
    """
    check_options(options, config)
    folder = Path(options.output)
    with owned(folder):
        _analyze(options, config, section, folder)
    return folder


def _analyze(options: AnalysisOptions, config: DataConfig, section: dict | None, folder: Path) -> None:
    pipeline = None if options.model is None else load_pipeline(find_model(options.model))
    images, labels = load_images(config, options.max_images, options.seed)
    if pipeline is not None:
        _check_model(pipeline, images)
    count = len(choose_schedules(options.schedules, {}, options.allow_code)) + 3
    total = len(GRID) + 2 + SCHEDULE_WORK * count + FIGURES_WORK
    total += 0 if pipeline is None else local_error_work(LEVELS) + fit_work(options.fit_timesteps or ())
    fits: list[Fit] = []
    with tqdm(total=total, desc="measuring the data", unit="part") as bar:
        data = measure_data(images, labels, seed=options.seed, progress=bar.update)

        bar.set_description("measuring schedules")
        torch.set_num_threads(1)  # for the searches' small matrices, as analyze_schedules.py does for numpy
        front = Optimum(merged(data.model.spectrum, 0.1), options.solver, options.steps, options.num_train_timesteps)
        fitted = {**octave_arguments(data.model), "solver": options.solver}
        written = {"spectral": {"name": "spectral", **fitted, "kappa": options.kappa}}
        start = log_snr_table(written["spectral"], options)
        written["optimal"] = knots_of(front.best(options.kappa, 0.5, start))
        if pipeline is not None:
            bar.set_description("measuring the model's steps")
            denoise = network_denoiser(pipeline)
            local_error = measured_local_error(
                denoise, images, LEVELS, count=MEASURED_IMAGES, seed=options.seed, progress=bar.update
            )
            if options.fit_timesteps:
                bar.set_description("fitting steps")
                asked = options.fit_timesteps, options.fit_solver, options.seed
                fits = fit_steps(pipeline, data.model.spectrum, *asked, bar.update)
                written |= {f"fitted_{options.fit_solver}_{len(fit.log_snr)}": knots_at(fit.log_snr) for fit in fits}
            bar.set_description("measuring schedules")
            written["local_error"] = schedule_of_local_error(LEVELS, local_error, last=-10.0, first=10.0)
        rows, notes = measure_rows(options, data, section, written, front, start, bar.update)
        rows.sort(key=lambda row: (row.measures.leaks, row.distance if np.isfinite(row.distance) else np.inf))

        bar.set_description("drawing")
        draw_figures(rows, data, options, written["spectral"], front, start, folder, bar.update)
        bar.update(total - bar.n)

    write_csv(rows, data, folder / "table.csv")
    write_curves([row.measures for row in rows], folder / "measures.npz")
    for name, part in written.items():
        text = yaml.safe_dump({"scheduler": part}, sort_keys=False, default_flow_style=None, width=100)
        write_text(folder / f"{name}.yaml", f"# Made by analyze_schedules.py from {len(images):,} images.\n{text}")
    table = describe(options, config, data) + "\n\n" + markdown_tables(rows, data, options)
    table += "".join(f"\n- {note}" for note in notes) + "\n"
    table += fits_table(fits, options.fit_solver)
    write_text(folder / "table.md", table)
    write_text(folder / "report.md", report(rows, data, options, table))


def check_options(options: AnalysisOptions, config: DataConfig) -> None:
    """Refuse what cannot work before anything is measured.

    Raises:
        UserError: In one sentence.
    """
    options.check()
    check_limits(config, "data.")
    if config.resolution < 4:
        raise UserError(
            f"data.resolution is {config.resolution}, but must be 4 or more for the image to have octaves."
        )
    choose_schedules(options.schedules, {}, options.allow_code)


def _check_model(pipeline: ClassConditionalPipeline, images: np.ndarray) -> None:
    expected = (pipeline.unet.config.in_channels, pipeline.unet.config.sample_size)
    if images.shape[1:3] != expected:
        raise UserError(
            f"--model draws images of {expected[1]} pixels and {expected[0]} channels, but the data have "
            f"{images.shape[2]} and {images.shape[1]}: set data.resolution and data.channels."
        )


def load_images(config: DataConfig, count: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Up to `count` images uint8 (N, C, H, W) of a data set, and their labels if all have one.

    A random part of a stored set; of a stream the first ones, in its shuffled order.
    """
    labels: np.ndarray | None
    if config.streaming:
        found: list[tuple[np.ndarray, int]] = []
        stream = ImageStream(config, seed, conditional=False).batches(1, range(1))
        for image, label, after in shown(stream, "reading the stream"):
            if after["epoch"] > 0 or len(found) == count:
                break
            found.append((image[0], -1 if label is None else label[0]))
        images, labels = (np.stack(part) for part in zip(*found))
    else:
        store = open_store(config, conditional=False)
        images, labels = store.images, store.labels
        if len(images) > count:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
            images, labels = images[chosen], None if labels is None else labels[chosen]
    return images, None if labels is None or labels.min() < 0 else labels
