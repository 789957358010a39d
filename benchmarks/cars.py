"""The tables of docs/cars.md that evaluate.py gives one row at a time.

    OMP_NUM_THREADS=1 python benchmarks/cars.py progress --output docs/cars
    OMP_NUM_THREADS=1 python benchmarks/cars.py kinds --output docs/cars
    OMP_NUM_THREADS=1 python benchmarks/cars.py precision --output docs/cars

The first two read the runs of runs/cars_32_conditional, _unconditional and _classifier, trained by the shipped
configurations with --train.keep_checkpoints_every 1250; the last draws from the model that ships. Every row is a
report in runs/cars_study; a row that is there is not measured again. The weights of MobileNetV2 are needed:
docs/evaluation.md.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.evaluation.evaluate import run
from cardiff.evaluation.options import EvaluateOptions
from cardiff.files import write_text
from cardiff.hub.serialization import load_pipeline
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.kinds import draw_kinds, grid_blocks
from cardiff.sampling.solvers import make_solver
from cardiff.training.checkpoint import checkpoint_dir

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
STEPS_PER_EPOCH = 125
EPOCHS = (10, 40, 100)
EVALUATIONS = 40
"""Of a network for each image, for every kind of guidance."""
METRICS = {"fid": "distance", "kid": "kernel", "precision": "precision", "recall": "recall", "coverage": "coverage"}
METRICS |= {"accuracy": "accuracy"}
PROTOCOL: dict[str, Any] = {
    "network": "mobilenet",
    "metrics": "fid,kid,prdc,accuracy",
    "accuracy_classifier": "cars_32_judge",
    "reference": str(ROOT / "configs/cars_32_conditional.yaml"),
    "steps": EVALUATIONS // 2,
}


def progress(runs: Path) -> dict[str, dict[str, Any]]:
    """Both twins after more and more epochs, and the conditional one without a label."""
    rows = {}
    for epochs in EPOCHS:
        for name, kind, scale in (("label", "", 1.0), ("null class", "", 0.0), ("twin", "un", 1.0)):
            folder = checkpoint_dir(runs / f"cars_32_{kind}conditional" / "checkpoints", epochs * STEPS_PER_EPOCH)
            rows[f"{name}, {epochs} epochs"] = {"model": str(folder), "guidance_scale": [scale], "steps": 20}
    return rows


def kinds(runs: Path) -> dict[str, dict[str, Any]]:
    """Kinds of guidance at EVALUATIONS of a network for each image.

    A gradient of the classifier, forward and backward, takes about 0.7 times the arithmetic of one evaluation of the
    UNet.
    """
    model, twin = str(runs / "cars_32_conditional"), str(runs / "cars_32_unconditional")
    worse = str(checkpoint_dir(Path(model) / "checkpoints", EPOCHS[0] * STEPS_PER_EPOCH))
    guide = {"classifier": str(runs / "cars_32_classifier")}
    rows: dict[str, dict[str, Any]] = {"label only": {"model": model, "guidance_scale": [1.0], "steps": EVALUATIONS}}
    rows["label only, half of the steps"] = {"model": model, "guidance_scale": [1.0]}
    for w in (1.5, 2.0, 3.0):
        rows[f"plain, w = {w:g}"] = {"model": model, "guidance_scale": [w]}
    interval = {"guidance_interval": [-1.0, 2.0], "steps": 28}
    rows["interval, w = 2"] = {"model": model, "guidance_scale": [2.0], **interval}
    rows["autoguidance, w = 2"] = {"model": model, "guidance_scale": [2.0], "guidance_model": worse}
    rows["twin for the null class, w = 1.5"] = {"model": model, "guidance_scale": [1.5], "guidance_model": twin}
    rows["CFG++, λ = 0.3"] = {"model": model, "guidance_scale": [0.3], "cfg_plus_plus": True}
    rows["label and classifier, s = 1"] = {"model": model, **guide}
    rows["twin and classifier, s = 4"] = {"model": twin, **guide, "classifier_scale": [4.0]}
    return rows


def precision(runs: Path) -> dict[str, dict[str, Any]]:
    """The same images in bf16 and in float32."""
    model = {"model": str(MODELS / "cars_32"), "guidance_scale": [1.5]}
    return {name: {**model, "precision": name} for name in ("float32", "bf16")}


PARTS = {"progress": progress, "kinds": kinds, "precision": precision}


def draw_progress(runs: Path, path: Path) -> None:
    """The same noise and classes, drawn from more and more trained models, without guidance."""
    drawn = {}
    for epochs in EPOCHS:
        folder = runs / "cars_32_conditional/checkpoints"
        pipeline = load_pipeline(checkpoint_dir(folder, epochs * STEPS_PER_EPOCH))
        pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
        title = f"{epochs} epochs"
        drawn |= draw_kinds(pipeline, {title: {"guidance_scale": 1.0}}, {title: 3}, steps=20)
    names = list(pipeline.class_names().values())
    save_labelled_grid(grid_blocks(drawn, len(names), 3), names, list(drawn), path, zoom=2, blocks_per_line=len(drawn))


def measure_all(rows: Mapping[str, dict[str, Any]], options: argparse.Namespace, name: str) -> None:
    """Measure every row that has no report yet, and write the table of all to NAME.md.

    Args:
        rows: Options of evaluate.py by the name of the row.
        options: What `parse` returned.
        name: Of the table.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    found = {}
    for row, setting in rows.items():
        folder = options.reports / options.part / re.sub(r"[^\w.=]+", "_", row)
        given = {**PROTOCOL, "num_images": options.images, "precision": options.precision, **setting}
        found[row] = measure(folder, given)
        write_text(options.output / f"{name}.md", table(found))
        print(table({row: found[row]}).splitlines()[-1], flush=True)


def measure(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The report with these options, measured if it is not there."""
    if not (folder / "metrics.json").exists():
        run(EvaluateOptions(output=str(folder), **given))
    return json.loads((folder / "metrics.json").read_text())


def write_results(
    path: Path,
    images: int,
    rows: list[dict],
    markdown: Callable[[list[dict]], str],
    draw: Callable[[list[dict], Path], object],
) -> None:
    """Write what a study has found as PATH.json, its tables as PATH.md and its figure as PATH.png.

    Args:
        path: Without an ending.
        images: Of each setting.
        rows: A row for each setting.
        markdown: Makes the tables of the rows.
        draw: Draws the figure of the rows into a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".json"), json.dumps({"images": images, "rows": rows}, indent=1) + "\n")
    write_text(path.with_suffix(".md"), markdown(rows))
    draw(rows, path.with_suffix(".png"))


def read_rows(reports: Path) -> list[dict]:
    """The rows that the parts of a study have left as JSON files."""
    return [json.loads(file.read_text()) for file in sorted(reports.glob("*.json"))]


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with these values as its ticks."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def parse(description: str | None, parts: Iterable[str], runs: Path, reports: Path) -> argparse.Namespace:
    """The command line of a study: which part of it, and where its models, reports and table are."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--runs", type=Path, default=runs, help=f"folder of the models (default: {runs})")
    parser.add_argument("--reports", type=Path, default=reports, help=f"where the reports go (default: {reports})")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument("--images", type=int, default=500, help="of each setting (default: 500)")
    parser.add_argument("--precision", default="auto", help="of the networks when they sample (default: auto)")
    return parser.parse_args()


def main() -> None:
    options = parse(__doc__, PARTS, Path("runs"), Path("runs/cars_study"))
    rows = PARTS[options.part](options.runs)
    if options.part == "progress":
        options.output.mkdir(parents=True, exist_ok=True)
        draw_progress(options.runs, options.output / "progress.png")
    measure_all(rows, options, options.part)


def table(found: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: a row for each setting, each number with half of its 95% interval."""
    lines = [f"| setting | evaluations | {' | '.join(METRICS.values())} |", "|---|---|" + "---|" * len(METRICS)]
    for name, report in found.items():
        lines.append(f"| {' | '.join([name, evaluations(report), *(cell(report, key) for key in METRICS)])} |")
    return "\n".join(lines) + "\n"


def cell(report: dict[str, Any], key: str) -> str:
    """A number of a report with half of its interval; a dash where the model draws without classes."""
    estimate = report["metrics"].get(key)
    if estimate is None:
        return "–"
    half = (estimate["high"] - estimate["low"]) / 2
    if key == "accuracy":
        return f"{estimate['value']:.1%} ± {half:.1%}"
    return f"{estimate['value']:.3g} ± {half:.2g}"


def evaluations(report: dict[str, Any]) -> str:
    """How often each network was evaluated for an image."""
    names = {"unet": "", "guidance_unet": " of the other UNet", "classifier": " of the classifier"}
    return " + ".join(f"{count:g}{names[network]}" for network, count in report["evaluations"].items())


if __name__ == "__main__":
    main()
