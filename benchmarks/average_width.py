"""How long should the average of the weights be? Digits, three lengths of training, three seeds.

    for part in 0 1 2 table; do OMP_NUM_THREADS=1 python benchmarks/average_width.py $part --output docs/averages; done

A SEED trains configs/digits_16_conditional.yaml for each of LENGTHS steps with train.ema_widths 0.05 and 0.10 and 20
snapshots, and measures 500 images of each of WIDTHS and of the usual average (the configuration's train.ema_decay,
0.99, with its warm-up), with 10 steps of DPM-Solver++ and no guidance: Fréchet distance in the features of a
classifier of the digits, which is trained if it is not there. What is there is not done again. table writes
widths.json, widths.md and widths.png.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_classifier
import train_conditional
from benchmarks.cars import ROOT, logarithmic, measure, parse, read_rows, write_results
from benchmarks.finetuning import mean_and_half
from benchmarks.step_bench import SEEDS
from cardiff.files import write_text
from cardiff.hub.averages import make_average, name_of
from cardiff.plotting import new_figure, save_figure

LENGTHS = (150, 450, 1350)
WIDTHS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2)
USUAL = "usual"


def train_and_measure(seed: int, runs: Path, reports: Path, images: int, precision: str) -> None:
    """All lengths and widths of a seed."""
    classifier = runs / "classifier"
    trackers = ["--train.trackers", "[]"]
    config = str(ROOT / "configs/digits_16_classifier.yaml")
    train_classifier.main(["--config", config, "--output_dir", str(classifier), *trackers])
    for steps in LENGTHS:
        run = runs / f"{steps}_{seed}"
        given = {"max_steps": steps, "seed": seed, "sample_every": 0, "ema_widths": "[0.05,0.1]"}
        argv = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), "--output_dir", str(run), *trackers]
        for name, value in given.items():
            argv += [f"--train.{name}", str(value)]
        train_conditional.main(argv)
        models = {USUAL: run}
        for width in WIDTHS:
            try:
                models[f"{width:g}"] = make_average(run, width, run / "averages" / name_of(width))[0]
            except ValueError as error:  # a UserError: too few snapshots for this width
                print(error)
        for name, folder in models.items():
            options = {"model": str(folder), "guidance_scale": [1.0], "steps": 10, "num_images": images}
            options |= {"network": str(classifier), "metrics": "fid", "keep_images": False, "precision": precision}
            report = measure(reports / f"{steps}_{seed}_{name}", options)
            row = {"steps": steps, "seed": seed, "width": name, "fid": report["metrics"]["fid"]}
            write_text(reports / f"{steps}_{seed}_{name}.json", json.dumps(row))
            print(steps, seed, name, f"{row['fid']['value']:.4g}", flush=True)


def values(rows: list[dict], steps: int, width: str) -> np.ndarray:
    """The distance of every seed; (seeds,)."""
    return np.array([row["fid"]["value"] for row in rows if (row["steps"], row["width"]) == (steps, width)])


def markdown(rows: list[dict]) -> str:
    """A row a length, a column a width; the best width in bold."""
    names = [USUAL, *(f"{width:g}" for width in WIDTHS)]
    lines = [f"| steps | {' | '.join(names)} |", "|---:|" + "---:|" * len(names)]
    for steps in LENGTHS:
        means = {name: values(rows, steps, name) for name in names}
        best = min((name for name in names[1:] if len(means[name])), key=lambda name: means[name].mean())
        cells = []
        for name in names:
            if not len(means[name]):
                cells.append("–")
                continue
            text = "{:.2f} ± {:.2f}".format(*mean_and_half(means[name]))
            cells.append(f"**{text}**" if name == best else text)
        lines.append(f"| {steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], path: Path) -> None:
    """Distance over the width, a panel a length; the usual average as a line across."""
    figure = new_figure(11, 3.4)
    for place, steps in enumerate(LENGTHS, 1):
        axes = figure.add_subplot(1, len(LENGTHS), place)
        shown = [width for width in WIDTHS if len(values(rows, steps, f"{width:g}"))]
        found = np.array([mean_and_half(values(rows, steps, f"{width:g}")) for width in shown])
        axes.errorbar(shown, found[:, 0], found[:, 1], fmt="o-", capsize=3, label="width chosen afterwards")
        usual, half = mean_and_half(values(rows, steps, USUAL))
        axes.axhline(usual, color="grey", label="decay 0.99, warmed up")
        axes.axhspan(usual - half, usual + half, color="grey", alpha=0.2)
        axes.set(title=f"{steps:,} steps", xlabel="width")
        logarithmic(axes, WIDTHS)
        if place == 1:
            axes.set_ylabel("Fréchet distance")
            axes.legend(fontsize=8)
    save_figure(figure, path)


def main() -> None:
    runs = Path("runs/average_width")
    options = parse(__doc__, [*map(str, SEEDS), "table"], runs, runs / "reports")
    options.reports.mkdir(parents=True, exist_ok=True)
    if options.part != "table":
        train_and_measure(int(options.part), options.runs, options.reports, options.images, options.precision)
        return
    write_results(options.output / "widths", options.images, read_rows(options.reports), markdown, draw)


if __name__ == "__main__":
    main()
