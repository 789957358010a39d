"""The comparison of noise schedules on a data set: measured, ranked, drawn, explained and written to a folder."""

import csv
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm

from cardiff.analysis import figures
from cardiff.analysis.catalogue import choose_schedules
from cardiff.analysis.errors import SOLVERS
from cardiff.analysis.explain import explain
from cardiff.analysis.local_error import (
    LEVELS,
    local_error_work,
    measured_local_error,
    network_denoiser,
    schedule_of_local_error,
)
from cardiff.analysis.measures import (
    GRID,
    MAX_LEAK,
    STEPS,
    DataMeasures,
    ScheduleMeasures,
    first_below,
    measure_data,
    measure_schedule,
    merged,
)
from cardiff.analysis.optimum import Optimum, knots_of, point_of
from cardiff.analysis.options import AnalysisOptions
from cardiff.analysis.spectra import octave_arguments
from cardiff.config.limits import check_limits
from cardiff.config.schedules_by_name import OURS, PUBLISHED, alphas_cumprod_of
from cardiff.config.sections import DataConfig
from cardiff.data import ImageStream, open_store
from cardiff.diffusion.levels import log_snr_of
from cardiff.errors import UserError
from cardiff.hub.serialization import find_model, load_pipeline
from cardiff.markup import escape
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.progress import shown
from cardiff.schedulers import SCHEDULES
from cardiff.version import cardiff_version

OWN_CONFIG, OPTIMUM = "this configuration", "optimum in 17 knots"
MEASURED_IMAGES = 64
"""Images on which the local error of a step is measured."""
KAPPAS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SCHEDULE_WORK, FRONT_WORK = 8, 2
"""Time of a schedule, and of a point of the front, in parts of the progress bar."""
MAX_IDLE = 0.1
"""Share of idle clean timesteps at which the figures' curves over κ end."""
FIGURES = {
    "noising_strip.png": "One image under the same noise at ten equal times, a row a schedule, as the model sees it "
    "(clipped to [-1, 1]).",
    "structure.png": "Octave structure S over t; its mean over t is A.",
    "plane.png": "Structure against sampling error. Above and to the left is worse; the dotted line is the least "
    "possible error in that norm, the solid black one the best of both errors together.",
    "octaves.png": "When each octave dies.",
    "information.png": "What a noisy image still tells about the image and its class.",
    "density.png": "Where on the scale of log-SNR the timesteps are.",
    "curves.png": "β of a step, ᾱ and log-SNR.",
}


@dataclass(frozen=True)
class Row:
    """A schedule of the table."""

    measures: ScheduleMeasures
    origin: str
    """published, ours, or yours."""
    distance: float
    """Of Optimum.distance; not finite if no search found a schedule with as much structure."""


def run(options: AnalysisOptions, config: DataConfig, section: dict | None = None) -> Path:
    """Compare schedules on a data set and write everything to `options.output`.

    Args:
        options: What to compare and where to write.
        config: The data set.
        section: A `scheduler` section to compare as OWN_CONFIG, or None.

    Raises:
        UserError: For options, data or a folder that cannot be used.
    """
    folder = _prepare(options, config)
    pipeline = None if options.model is None else load_pipeline(find_model(options.model))
    images, labels = load_images(config, options.max_images, options.seed)
    if pipeline is not None:
        _check_model(pipeline, images)
    count = len(choose_schedules(options.schedules, {})) + 3
    total = len(GRID) + 2 + SCHEDULE_WORK * count + FRONT_WORK * 3 * len(KAPPAS)
    total += len(FIGURES) + (0 if pipeline is None else local_error_work(LEVELS))
    with tqdm(total=total, desc="measuring the data", unit="part") as bar:
        data = measure_data(images, labels, seed=options.seed, progress=bar.update)

        bar.set_description("measuring schedules")
        torch.set_num_threads(1)  # for the searches' small matrices, as analyze_schedules.py does for numpy
        front = Optimum(merged(data.model.spectrum, 0.1), options.solver, options.steps, options.num_train_timesteps)
        fitted = {**octave_arguments(data.model), "solver": options.solver}
        written = {"spectral": {"name": "spectral", **fitted, "kappa": options.kappa}}
        start = _table_of(written["spectral"], options)
        written["optimal"] = knots_of(front.best(options.kappa, 0.5, start))
        if pipeline is not None:
            bar.set_description("measuring the model's steps")
            how = {"count": MEASURED_IMAGES, "seed": options.seed, "progress": bar.update}
            local_error = measured_local_error(network_denoiser(pipeline), images, LEVELS, **how)
            bar.set_description("measuring schedules")
            written["local_error"] = schedule_of_local_error(LEVELS, local_error, last=-10.0, first=10.0)
        rows, notes = _measure_rows(options, data, section, written, front, start, bar)
        rows.sort(key=lambda row: (row.measures.leaks, row.distance if np.isfinite(row.distance) else np.inf))

        bar.set_description("drawing")
        draw_figures(rows, data, options, written["spectral"], front, start, folder, bar.update)
        bar.update(bar.total - bar.n)

    write_csv(rows, data, folder / "table.csv")
    write_curves([row.measures for row in rows], folder / "measures.npz")
    for name, part in written.items():
        text = yaml.safe_dump({"scheduler": part}, sort_keys=False, default_flow_style=None, width=100)
        (folder / f"{name}.yaml").write_text(f"# Made by analyze_schedules.py from {len(images):,} images.\n{text}")
    table = describe(options, config, data) + "\n\n" + markdown_tables(rows, data, options)
    table += "".join(f"\n- {note}" for note in notes) + "\n"
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "report.md").write_text(_report(rows, data, options, table), encoding="utf-8")
    return folder


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
    if config.streaming:
        found = []
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
    """Every picture of FIGURES."""
    measures = [row.measures for row in rows]
    family, best, bounds = {}, [], {"pixels": [], "octaves": []}
    for kappa in KAPPAS:
        try:
            table = _table_of({**spectral, "kappa": kappa}, options)
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
        "noising_strip.png": lambda path: figures.draw_noising_strip(measures, data.images, options.seed, path),
        "structure.png": lambda path: figures.draw_structure(measures, path),
        "plane.png": lambda path: figures.draw_plane(
            points, family, best, bounds, options.solver, options.steps, path
        ),
        "octaves.png": lambda path: figures.draw_octaves(measures, path),
        "information.png": lambda path: figures.draw_information(measures, path),
        "density.png": lambda path: figures.draw_density(measures, data.model.spectrum, path),
        "curves.png": lambda path: figures.draw_curves(measures, path),
    }
    for name in FIGURES:
        how[name](folder / name)
        progress(1)


def table_columns(row: Row, data: DataMeasures) -> dict[str, float | str]:
    """The figures of one row of table.csv, in full precision; times are t = (i + 1)/T."""
    m = row.measures
    classes = None if m.class_information is None else data.posterior.class_information.max()
    columns = {
        "schedule": m.name,
        "origin": row.origin,
        "distance_percent": 100 * np.expm1(max(row.distance, 0.0)) if np.isfinite(row.distance) else "",
        "leaks": m.leaks,
        "leak_nats": m.leak,
        "mean_structure": m.mean_structure,
        "half_life": m.half_life,
        "idle_clean_percent": 100 * m.idle_clean,
        "idle_noise_percent": 100 * m.idle_noise,
    }
    for (solver, steps), error in m.errors.items():
        columns |= {f"{solver}_{steps}_pixels": error.pixels, f"{solver}_{steps}_octaves": error.octaves}
    return columns | {
        "class_half_gone": "" if classes is None else first_below(m.class_information, classes / 2),
        "information_half_gone": first_below(m.information, data.posterior.information.max() / 2),
        "recovery_half_gone": first_below(m.recovery, 0.5),
        "mean_ssim": float(m.ssim.mean()),
        "path_kl_nats": float(m.path_kl.sum()),
        "max_beta": m.max_beta,
        "first_log_snr": float(m.log_snr[0]),
        "last_log_snr": float(m.log_snr[-1]),
    }


def write_csv(rows: Sequence[Row], data: DataMeasures, path: Path) -> None:
    """The ranked table with every column."""
    records = [{"rank": rank, **table_columns(row, data)} for rank, row in enumerate(rows, 1)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)


def write_curves(measures: Sequence[ScheduleMeasures], path: Path) -> None:
    """Every curve, an array a quantity with a row a schedule, in the order of `names`."""
    quantities = ["log_snr", "alphas_cumprod", "betas", "structure", "octaves", "information_bound", "information"]
    quantities += ["class_information", "recovery", "ssim", "path_kl"]
    curves = {name: np.stack([getattr(m, name) for m in measures]) for name in quantities
              if getattr(measures[0], name) is not None}  # fmt: skip
    np.savez_compressed(path, names=np.array([m.name for m in measures]), **curves)


def markdown_tables(rows: Sequence[Row], data: DataMeasures, options: AnalysisOptions) -> str:
    """The ranking, the sampling errors and the information, as three Markdown tables."""
    found = [(rank, row.measures, table_columns(row, data)) for rank, row in enumerate(rows, 1)]
    steps = [n for n in STEPS if n <= options.num_train_timesteps]

    def shown(m: ScheduleMeasures, value: str) -> str:
        return f"({value})" if m.leaks else value

    ranking = [
        [
            str(rank),
            f"**{escape(m.name)}**" if c["origin"] == "ours" else escape(m.name),
            c["origin"],
            "–" if c["distance_percent"] == "" else shown(m, f"+{c['distance_percent']:.0f}%"),
            f"{c['mean_structure']:.3f}",
            f"{c['half_life']:.3f}",
            f"{c['idle_clean_percent']:.1f}%",
            f"{c['idle_noise_percent']:.1f}%",
            f"{c['leak_nats']:.1e}" + (" **leaks**" if m.leaks else ""),
            f"{c['max_beta']:.3f}",
            f"{c['last_log_snr']:.1f}",
        ]
        for rank, m, c in found
    ]
    errors = [
        [str(rank), escape(m.name)]
        + [f"{1e3 * m.errors[s, n].pixels:.3g} · {1e3 * m.errors[s, n].octaves:.3g}" for s in SOLVERS for n in steps]
        for rank, m, c in found
    ]
    information = [
        [str(rank), escape(m.name), "–" if c["class_half_gone"] == "" else f"{c['class_half_gone']:.3f}"]
        + [f"{c[name]:.3f}" for name in ("information_half_gone", "recovery_half_gone", "mean_ssim")]
        + [f"{c['path_kl_nats']:.3g}"]
        for rank, m, c in found
    ]
    front = f"from the front, {options.solver.upper()} {options.steps}"
    return "\n\n".join(
        [
            _markdown(
                ["", "schedule", "by", front, "A", "half-life", "idle clean", "idle noise", "leak", "max β", "last λ"],
                ranking,
            ),
            "Sampling error ×10⁻³, in pixels · by octave:",
            _markdown(["", "schedule", *(f"{s.upper()} {n}" for s in SOLVERS for n in steps)], errors),
            _markdown(
                ["", "schedule", "class half gone", "information half gone", "not recognised", "mean SSIM", "path KL"],
                information,
            ),
        ]
    ) + "\n"  # fmt: skip


def describe(options: AnalysisOptions, config: DataConfig, data: DataMeasures) -> str:
    """The tables' caption: what was measured and what each column is."""
    count, channels, size, _ = data.images.shape
    files = "" if config.data_files is None else f" ({config.data_files})"
    labels = "no labels" if data.posterior.class_information is None else "labels used"
    solver = f"{options.solver.upper()} with {options.steps} steps"
    return (
        f"Data: {escape(f'{config.path}{files}')}, split {escape(config.split)}, {count:,} images of {size}×{size} "
        f"pixels and {channels} channel{'s' * (channels > 1)}, {labels}. T = {options.num_train_timesteps} timesteps, "
        f"t = (i + 1)/T, seed {options.seed}. Structure, leak and errors are those of the Gaussian with the set's "
        "mean and spectrum under the ideal denoiser, with trailing steps and the variance fixed_small; information is "
        f"measured on the images themselves. Our spectral schedules are those for {options.solver.upper()}. "
        f"Cardiff {cardiff_version()}.\n\n"
        "- *from the front*: how far both errors lie above those of the best schedule with at least the same "
        f"structure, with {solver}; the ranking. Schedules that leak come last, with the figure in brackets.\n"
        "- *A*: mean over t of the octave structure S (the share of each octave that is readable, 0 to 1, averaged "
        "over octaves); *half-life*: first t with S below one half.\n"
        "- *idle clean*, *idle noise*: share of the timesteps at which every octave is at least 95% readable, or none "
        "even 5%.\n"
        f"- *leak*: KL(q(x_T) ‖ N(0, I)) in nats; above {MAX_LEAK:g} a schedule counts as leaking.\n"
        "- *max β*: largest noise variance of a step; *last λ*: log-SNR in nats at t = 1.\n"
        "- *DDPM n*, *DDIM n*: squared 2-Wasserstein distance of the samples of n steps from the data, over the whole "
        "image relative to its variance (pixels) · of each octave relative to its own, averaged (by octave).\n"
        "- *class half gone*, *information half gone*: first t with less than half of I(class; x_t), or I(x₀; x_t); "
        "*not recognised*: first t at which for fewer than half of the noisy images the most probable original is the "
        "right one.\n"
        "- *mean SSIM*: mean over t of the structural similarity of the best linear estimate with the image.\n"
        "- *path KL*: KL in nats of the ideal T-step sampler's path from the true one, the last step left out."
    )


def _prepare(options: AnalysisOptions, config: DataConfig) -> Path:
    """Refuse what cannot work before anything is measured; the output folder."""
    check_limits(options, "--")
    check_limits(config, "data.")
    if options.steps > options.num_train_timesteps:
        raise UserError(
            f"--steps {options.steps} is more than the {options.num_train_timesteps} timesteps of the schedules: "
            "lower it or raise --num_train_timesteps."
        )
    if config.resolution < 4:
        raise UserError(f"data.resolution is {config.resolution}, but must be 4 or more to have octaves.")
    choose_schedules(options.schedules, {})
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written ({error.strerror}): name another folder.") from error
    return folder


def _measure_rows(options, data, section, written, front, start, bar) -> tuple[list[Row], list[str]]:
    """The rows in no order, and a sentence on each schedule that is missing."""
    spectral = {key: value for key, value in written["spectral"].items() if key not in ("name", "kappa")}
    sections = choose_schedules(options.schedules, spectral)
    if section is not None:
        sections[OWN_CONFIG] = section
    by_name = "spectral" if options.kappa == 0 else f"spectral κ={options.kappa:g}"
    sections.setdefault(by_name, written["spectral"])
    sections[OPTIMUM] = written["optimal"]
    rows, notes, tables = [], [], {}
    for name, chosen in sections.items():
        try:
            alphas_cumprod = alphas_cumprod_of({**chosen, "num_train_timesteps": options.num_train_timesteps})
        except ValueError as error:
            if options.schedules != "all" or name == OWN_CONFIG:
                raise
            notes.append(f"{escape(name)} is missing: {escape(str(error))}")
            bar.update(SCHEDULE_WORK)
            continue
        same = next((other for other, table in tables.items() if np.array_equal(table, alphas_cumprod)), None)
        if name == OWN_CONFIG and same:
            notes.append(f"The configuration's own schedule is {escape(same)}.")
            bar.update(SCHEDULE_WORK)
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
        bar.update(SCHEDULE_WORK)
    return rows, notes


def _table_of(section: dict, options: AnalysisOptions) -> np.ndarray:
    """Log-SNR of a `scheduler` section; (T,)."""
    return log_snr_of(alphas_cumprod_of({**section, "num_train_timesteps": options.num_train_timesteps}))


def _idle_clean(data: DataMeasures, log_snr: np.ndarray) -> float:
    return measure_schedule("", 1 / (1 + np.exp(-log_snr)), data).idle_clean


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _report(rows: Sequence[Row], data: DataMeasures, options: AnalysisOptions, table: str) -> str:
    """report.md: tables, figures, and a paragraph a schedule."""
    ours = [row.measures for row in rows if row.origin == "ours"]
    theirs = [row.measures for row in rows if row.origin != "ours"]
    text = f"# Noise schedules on this data set\n\n{table}\n## Figures\n\n"
    text += "\n\n".join(f"![{caption}]({name})\n\n{caption}" for name, caption in FIGURES.items())
    text += "\n\n## Every schedule in words\n"
    for rank, row in enumerate(rows, 1):
        words = explain(
            row.measures,
            data,
            solver=options.solver,
            steps=options.steps,
            distance=row.distance,
            others=theirs if row.origin == "ours" else ours,
            ours=row.origin == "ours",
        )
        text += f"\n**{rank}. {escape(row.measures.name)}** ({row.origin}). {words}\n"
    return text + (
        "\n## Files\n\n"
        "- `spectral.yaml`, `optimal.yaml`: scheduler sections for training, given as a second `--config`.\n"
        "- `local_error.yaml`, if a model was given: where it wants its steps, for `sample.py --timesteps_from`.\n"
        "- `table.csv`: the tables in full precision, a row a schedule.\n"
        "- `measures.npz`: the curves; `names` (S,) and, a row a schedule, `log_snr`, `alphas_cumprod`, `betas`, "
        "`structure`, `information_bound`, `information`, `class_information`, `recovery`, `ssim` (S, T), `octaves` "
        "(S, T, K) from the image's mean upwards and `path_kl` (S, T − 1). Information and path KL are in nats.\n"
    )
