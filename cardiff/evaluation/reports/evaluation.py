"""The report of a measurement: metrics.json with the whole protocol, and the same for reading, Markdown and HTML."""

import base64
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import markdown
import numpy as np
from scipy.stats import norm

from cardiff.evaluation.estimator import ClassRow, Measured
from cardiff.evaluation.images import ImageSet
from cardiff.evaluation.metrics.intervals import LEVEL, Estimate, EstimateRecord
from cardiff.evaluation.metrics.memorisation import Memorisation
from cardiff.evaluation.metrics.registry import loss
from cardiff.evaluation.protocol import Protocol
from cardiff.evaluation.reports import figures
from cardiff.evaluation.reports.wording import EXPLAINED, contradictions, interval, name_with, number
from cardiff.evaluation.samples import ModelFacts
from cardiff.files import write_text
from cardiff.markup import code, escape, fenced
from cardiff.plotting import save_labelled_grid

logger = logging.getLogger(__name__)

STYLE = """body{max-width:60rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#1e1e1e}
table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}td,th{padding:.25rem .7rem;text-align:left}
td,th{border-bottom:1px solid #ddd}
img{max-width:100%}code,pre{font-size:.85rem;background:#f5f5f5}pre{padding:.7rem;overflow-x:auto}"""
GRID_ROWS, GRID_COLUMNS = 10, 10
EXTREMES = 10
"""Of many classes, the number of best and worst ones, and of most confused pairs, that are listed."""
RANKED: dict[Literal["accuracy", "distance", "diversity"], bool | float] = {
    "accuracy": True,
    "distance": False,
    "diversity": 1.0,
}
"""Figures by which many classes are ranked, the first that was measured, and what is better."""


def summary(found: Sequence[dict[str, Estimate]]) -> dict[str, EstimateRecord]:
    """The estimates of each seed, averaged: value, standard error, interval, and the spread over the seeds.

    The standard error of the mean is that of the resampled images; the standard deviation over seeds is beside it.
    """
    first, *others = found
    together: dict[str, EstimateRecord] = {}
    for name in first:
        if any(name not in other for other in others):  # such as the diversity where no class has two samples
            continue
        estimates = [one[name] for one in found]
        if len(estimates) == 1:
            together[name] = estimates[0].to_dict()
            continue
        values = np.array([estimate.value for estimate in estimates])
        error = float(np.sqrt(sum(e.standard_error**2 for e in estimates)) / len(estimates))
        together[name] = {
            "value": float(values.mean()),
            "standard_error": error,
            "low": float(values.mean() - norm.ppf((1 + LEVEL) / 2) * error),
            "high": float(values.mean() + norm.ppf((1 + LEVEL) / 2) * error),
            "method": estimates[0].method,
            "over_seeds": float(values.std(ddof=1)),
            "seeds": values.tolist(),
        }
    return together


def write_report(
    output: Path,
    protocol: Protocol,
    sets: dict[int | None, ImageSet],
    found: dict[int | None, Measured],
    real: Measured | None,
    facts: ModelFacts | None,
) -> None:
    """Write metrics.json, report.md, report.html and the figures into a folder, from the main process alone.

    Args:
        output: An existing folder.
        protocol: The protocol of the measurement.
        sets: Images by sampling seed (None for a folder that was given).
        found: The measurements, likewise.
        real: The measurement of as many held-out real images, if there are any.
        facts: The model, if there is one.
    """
    seed = next(iter(sets))
    drawn, measured = sets[seed], found[seed]
    together = summary([one.estimates for one in found.values()])
    missing = {name: reason for one in found.values() for name, reason in one.missing.items()}
    metrics: dict = {
        "images": measured.count,
        "seeds": None if seed is None else list(sets),
        "metrics": together,
        "not_measured": missing,
        "warnings": contradictions({name: estimate["value"] for name, estimate in together.items()}),
        "held_out": None if real is None else summary([real.estimates]),
        "held_out_images": None if real is None else real.count,
        "per_class": measured.per_class,
        "confusion": None if measured.confusion is None else measured.confusion.tolist(),
        "memorisation": None if measured.memorisation is None else measured.memorisation.to_dict(),
        "model": None if facts is None else facts.record,
        "sampling": drawn.protocol,
        "evaluations": drawn.evaluations,
        "protocol": protocol.record(),
    }
    save_text(output / "metrics.json", as_json(metrics) + "\n")
    text = "\n".join(_sections(output, protocol, drawn, measured, metrics))
    save_text(output / "report.md", text)
    save_text(output / "report.html", as_html(text, output, "Cardiff: evaluation"))
    for warning in metrics["warnings"]:
        logger.warning("%s", warning)


def save_text(path: Path, text: str) -> None:
    """Write a report's text; bytes of a file name that are not UTF-8 are escaped."""
    write_text(path, text.encode(errors="backslashreplace").decode())


def as_json(record: dict) -> str:
    """A record for other programs, which do not all read what Python writes for numbers that are not finite.

    An infinite one, such as the end of a guidance interval, becomes "inf" or "-inf", and one that is none, null.
    """

    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(part) for part in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else str(value)
        return value

    return json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False)


def _sections(output: Path, protocol: Protocol, drawn: ImageSet, measured: Measured, metrics: dict) -> list[str]:
    """The lines of the report; draws its figures, too."""
    reference = protocol.reference.record
    lines = ["# Evaluation", "", _headline(protocol, metrics), "", *metric_table(protocol, metrics), ""]
    for warning in metrics["warnings"]:
        lines += [f"**Warning.** {warning}", ""]
    lines += ["![Samples](samples.png)", ""]
    _save_grid(drawn, protocol.reference.class_names, output / "samples.png")
    if measured.extrapolation is not None:
        figures.save_extrapolation(measured.extrapolation, protocol.network.distance, output / "infinity.png")
        lines += ["## More samples", "", "![Distance over the number of images](infinity.png)", ""]
    if measured.confusion is not None:
        figures.save_confusion(measured.confusion, protocol.reference.class_names, output / "confusion.png")
        lines += ["## Classes", "", "![Confusion matrix of requested and predicted classes](confusion.png)", ""]
        if len(measured.confusion) > figures.MANY_CLASSES:
            lines += [*confusions_table(measured.confusion, protocol.reference.class_names), ""]
    if measured.per_class:
        lines += [
            *([] if measured.confusion is not None else ["## Classes", ""]),
            *class_section(measured.per_class),
            "",
        ]
    if measured.memorisation is not None:
        lines += memorisation_section(output, protocol, drawn, measured.memorisation)
    shown = {name: metrics[name] for name in ("images", "seeds", "model", "sampling", "evaluations", "protocol")}
    lines += ["## Protocol", "", *fenced("json", as_json(shown))]
    return [*lines, "", f"Reference: {code(reference['key'])}.", ""]


def _headline(protocol: Protocol, metrics: dict) -> str:
    data = protocol.reference.record["data"]
    who = "images of the folder" if metrics["model"] is None else f"samples of the {metrics['model']['kind']} model"
    seeds = f" for each of {len(metrics['seeds'])} seeds" if metrics["seeds"] and len(metrics["seeds"]) > 1 else ""
    return (
        f"{metrics['images']:,} {who}{seeds} against {data['images']:,} images of {data_name(data)}, split "
        f"{escape(data['split'])}, at {data['resolution']} pixels, in the features of {escape(protocol.network.name)}."
    )


def metric_table(protocol: Protocol, metrics: dict) -> list[str]:
    """A row for each metric: value, interval, and the value of held-out real images."""
    real, several = metrics["held_out"], metrics["seeds"] is not None and len(metrics["seeds"]) > 1
    heads = ["metric", "", "value", "95% interval"]
    heads += ["sd over seeds"] if several else []
    heads += [f"{metrics['held_out_images']:,} held-out real images"] if real is not None else []
    lines = [f"| {' | '.join([*heads, 'meaning'])} |", "|" + "---|" * (len(heads) + 1)]
    for name, found in metrics["metrics"].items():
        cells = [metric_name(protocol, name), arrow(protocol, name), number(found["value"]), interval(found, name)]
        if several:
            cells.append(number(found["over_seeds"]))
        if real is not None:
            cells.append(number(real[name]["value"]) if name in real else "")
        lines.append(f"| {' | '.join([*cells, EXPLAINED[name]])} |")
    if metrics["not_measured"]:
        lacking = [f"{metric_name(protocol, name)} ({why})" for name, why in metrics["not_measured"].items()]
        lines += ["", f"Not measured: {'; '.join(lacking)}."]
    return lines


def arrow(protocol: Protocol, name: str) -> str:
    """An arrow in the direction of better values."""
    aim = protocol.names[name]
    return {True: "↑", False: "↓"}[aim] if isinstance(aim, bool) else f"→ {aim:g}"


def data_name(data: dict) -> str:
    """The name of a data set in Markdown, from its record."""
    return escape(", ".join(data["data_files"]) if "data_files" in data else data["path"])


def metric_name(protocol: Protocol, name: str) -> str:
    """The name of a metric in Markdown with this protocol's network; only the Inception's distance is called FID."""
    return escape(name_with(protocol.network.distance, name))


def class_section(per_class: list[ClassRow]) -> list[str]:
    """Which classes have too few images, and a row for each class; of many classes the best and the worst."""
    lines: list[str] = []
    samples, real = [row["images"] for row in per_class], [row["real_images"] for row in per_class]
    for numbers, what in ((samples, "sample"), (real, "real image")):
        counts = [(numbers.count(count), which) for count, which in enumerate(("no", "a single"))]
        told = [f"{count} of the {len(per_class)} classes have {which} {what}" for count, which in counts if count]
        if told:
            lines += [f"{' and '.join(told)}. Distance and diversity need two.", ""]
    shown = per_class
    if len(per_class) > figures.MANY_CLASSES:
        by, ranked = _ranked(per_class)
        shown = ranked or per_class
        if len(shown) > 2 * EXTREMES:
            shown = [*shown[:EXTREMES], *shown[-EXTREMES:]]
        how = f"the best and the worst by {by}" if ranked else "some"
        lines += [
            f"{len(shown)} of the {len(per_class)} classes are listed, {how}; all are in metrics.json (per_class).",
            "",
        ]
    rows: list[dict[str, object]] = [dict(row) for row in shown]
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    columns.remove("real_images")  # their share of the data is there
    lines += [f"| {' | '.join(name.replace('_', ' ') for name in columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [number(cell) if isinstance(cell, float) else cell for cell in (row[name] for name in columns)]
        lines.append(f"| {' | '.join('' if cell is None else escape(str(cell)) for cell in cells)} |")
    return lines


def _ranked(per_class: list[ClassRow]) -> tuple[str | None, list[ClassRow]]:
    """The first of the figures in RANKED that a class has, and the classes that have it, the best first."""
    for name, aim in RANKED.items():
        known = [(row[name], row) for row in per_class]
        found = [(loss(value, aim), row) for value, row in known if value is not None]
        if found:
            return name, [row for _, row in sorted(found, key=lambda pair: pair[0])]
    return None, []


def confusions_table(confusion: np.ndarray, names: list[str]) -> list[str]:
    """The pairs of classes that are confused most often, for a matrix too large for names."""
    wrong = confusion * ~np.eye(len(names), dtype=bool)
    worst = np.argsort(wrong, axis=None, kind="stable")[::-1][:EXTREMES]
    pairs = [pair for pair in zip(*np.unravel_index(worst, wrong.shape)) if wrong[pair]]
    if not pairs:
        return ["Every sample is classified as the requested class."]
    lines = ["| requested | classified as | samples |", "|---|---|---|"]
    return [
        *lines,
        *(f"| {escape(names[row])} | {escape(names[column])} | {wrong[row, column]} |" for row, column in pairs),
    ]


def memorisation_section(output: Path, protocol: Protocol, drawn: ImageSet, found: Memorisation) -> list[str]:
    """Distances to the nearest training images, with the closest pairs."""
    assert protocol.reference.images is not None, "checked by Protocol"
    figures.save_distances(found, output / "distances.png")
    pairs = figures.save_closest(found, drawn.images, protocol.reference.images, output / "closest.png")
    listed = ", ".join(escape(drawn.names[pair["sample"]]) for pair in pairs if pair["alarm"])
    lines = ["## Memorisation", "", found.sentence(), ""]
    lines += [f"Too near a training image: {listed}.", ""] if listed else []
    lines += ["![Distances to the nearest training image](distances.png)", ""]
    return [*lines, "![The closest pairs](closest.png)", ""]


def _save_grid(drawn: ImageSet, class_names: list[str], path: Path) -> None:
    """The first images of each class, a row a class, or simply the first ones."""
    if drawn.labels is None:
        columns = min(GRID_COLUMNS, len(drawn.images))
        rows = min(GRID_ROWS, len(drawn.images) // columns)
        images, names = drawn.images[: rows * columns].transpose(0, 2, 3, 1), [""] * rows
    else:
        chosen = shown_classes(drawn.labels)
        images, names = rows_by_class(drawn.images, drawn.labels, chosen), [class_names[label] for label in chosen]
    save_labelled_grid(images[None], names, [""], path, zoom=max(1, round(40 / images.shape[2])))


def shown_classes(labels: np.ndarray) -> list[int]:
    """Up to GRID_ROWS of the classes with samples, evenly spread."""
    present = np.unique(labels)
    return present[np.unique(np.linspace(0, len(present) - 1, GRID_ROWS).round().astype(int))].tolist()


def rows_by_class(
    images: np.ndarray, labels: np.ndarray, chosen: list[int], columns: int = GRID_COLUMNS
) -> np.ndarray:
    """The first images of each chosen class, white where there are no more.

    Args:
        images: uint8 (N, C, H, W).
        labels: (N,).
        chosen: Classes, a row each.
        columns: Images in a row.

    Returns:
        uint8 (rows · columns, H, W, C).
    """
    rows = np.full((len(chosen), columns, *images.shape[1:]), 255, np.uint8)
    for row, label in zip(rows, chosen):
        found = images[np.flatnonzero(labels == label)[:columns]]
        row[: len(found)] = found
    return rows.reshape(-1, *images.shape[1:]).transpose(0, 2, 3, 1)


def as_html(text: str, folder: Path, title: str) -> str:
    """Markdown as one HTML file with the pictures embedded."""
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])

    def inline(match: re.Match) -> str:
        data = base64.b64encode((folder / match[2]).read_bytes()).decode()
        return f'{match[1]}src="data:image/png;base64,{data}"'

    body = re.sub(r'(?<=<img alt=")([^"<>]*" )src="([^":/]+\.png)"', inline, body)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
