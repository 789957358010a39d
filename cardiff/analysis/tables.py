"""A comparison as tables: table.csv, measures.npz, and the Markdown tables with their caption."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cardiff.analysis.errors import SOLVERS
from cardiff.analysis.fitted_steps import NOISES, TEACHER_STEPS, Fit
from cardiff.analysis.measures import MAX_LEAK, STEPS, DataMeasures, ScheduleMeasures, first_below
from cardiff.analysis.options import AnalysisOptions
from cardiff.analysis.ranking import Row
from cardiff.config.sections import DataConfig
from cardiff.files import write_file
from cardiff.markup import escape
from cardiff.version import cardiff_version


def table_columns(row: Row, data: DataMeasures) -> dict[str, float | str]:
    """The figures of one row of table.csv, in full precision; times are t = (i + 1)/T."""
    m = row.measures
    class_half_gone: float | str = ""
    if m.class_information is not None and data.posterior.class_information is not None:
        class_half_gone = first_below(m.class_information, data.posterior.class_information.max() / 2)
    columns: dict[str, float | str] = {
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
        "class_half_gone": class_half_gone,
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
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0])
    writer.writeheader()
    writer.writerows(records)
    write_file(path, lambda aside: aside.write_bytes(text.getvalue().encode()))  # line ends as they are in CSV


def write_curves(measures: Sequence[ScheduleMeasures], path: Path) -> None:
    """Every curve, one array per quantity with one row per schedule, in the order of `names`."""
    quantities = ["log_snr", "alphas_cumprod", "betas", "structure", "octaves", "information_bound", "information"]
    quantities += ["class_information", "recovery", "ssim", "path_kl"]
    curves = {name: np.stack([getattr(m, name) for m in measures]) for name in quantities
              if getattr(measures[0], name) is not None}  # fmt: skip
    names = np.array([m.name for m in measures])
    # numpy's types take the curves for allow_pickle, a bool.
    write_file(path, lambda aside: np.savez_compressed(aside, names=names, **curves))  # type: ignore[arg-type]


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
            str(c["origin"]),
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


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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


def fits_table(fits: Sequence[Fit], solver: str) -> str:
    """What fitting the steps to the model gained; empty without a fit."""
    if not fits:
        return ""
    lines = [
        f"\nSteps fitted to the model, for {solver}: root mean square difference from the images of "
        f"{TEACHER_STEPS} steps per pixel, pixels from −1 to 1, from {NOISES} noises that were not fitted.\n",
        "| steps | the model's own | computed for the spectrum | fitted | log-SNR of the fitted steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fit in fits:
        levels = ", ".join(f"{level:.2f}" for level in fit.log_snr[::-1])
        errors = " | ".join(f"{error:.4f}" for error in (fit.own_error, fit.computed_error, fit.error))
        lines.append(f"| {len(fit.log_snr)} | {errors} | {levels} |")
    return "\n".join(lines) + "\n"
