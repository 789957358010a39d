"""Is a model with classes reached sooner from one without? Small networks on the cars, three seeds each.

    for part in source adopted_0 adopted_1 adopted_2 scratch_0 scratch_1 scratch_2 table; do
      OMP_NUM_THREADS=1 python benchmarks/finetuning.py $part --output docs/finetuning
    done

source is an unconditional network of 0.7 million parameters after 3,000 steps of 16 images. adopted_SEED gives it
classes and trains it on, for each number of steps in LENGTHS with its own cosine decay; scratch_SEED starts from
random weights, for as many steps and for 3,000. Each is measured on 500 images with 10 steps of DPM-Solver++, without
guidance: distance in the features of MobileNetV2, and the share that the classifier `cars_32_judge` takes for the
class asked for. The longest adopted runs are also measured with guidance at w = 1.5, by their own null class and by
the source. What is there is not done again. table writes classes.json, classes.md and classes.png. The weights of
MobileNetV2 are needed: docs/evaluation.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_conditional
import train_unconditional
from benchmarks.cars import ROOT, logarithmic, measure, parse, read_rows, write_results
from benchmarks.step_bench import SEEDS, SMALL
from cardiff.files import write_text
from cardiff.plotting import BLUE, ORANGE, new_figure, save_figure

LENGTHS = (100, 250, 500, 1000)
"""Steps after the source, and from scratch."""
WHOLE = 3000
"""Steps of the source, and of the longest run from scratch."""
START_RATE = 2e-3
"""Learning rate of the adopted runs, half of the configuration's."""
GUIDED = 1.5
FIGURES = {"fid": "MobileNet-FD", "accuracy": "accuracy"}


def train(kind: str, folder: Path, steps: int, seed: int, settings: dict[str, Any]) -> Path:
    """A run of configs/cars_32_KIND.yaml with the small network, trained if it is not there."""
    given = {**SMALL, "train.max_steps": steps, "train.seed": seed, "train.sample_every": 0, **settings}
    argv = ["--config", str(ROOT / f"configs/cars_32_{kind}.yaml"), "--output_dir", str(folder)]
    for name, value in {**given, "train.trackers": "[]"}.items():
        argv += [f"--{name}", str(value)]
    (train_conditional if kind == "conditional" else train_unconditional).main(argv)
    return folder


def source(runs: Path) -> Path:
    """The unconditional network, of another seed than the others."""
    return train("unconditional", runs / "source", WHOLE, len(SEEDS), {})


def train_and_measure(start: str, seed: int, options: Any) -> None:
    """All lengths of a seed, from the source or from random weights."""
    adopted = start == "adopted"
    settings = {"init_from": source(options.runs), "train.learning_rate": START_RATE} if adopted else {}
    for steps in LENGTHS if adopted else (*LENGTHS, WHOLE):
        folder = train("conditional", options.runs / f"{start}_{seed}_{steps}", steps, seed, settings)
        guided: dict[str, dict[str, Any]] = {"none": {}}
        if adopted and steps == LENGTHS[-1]:
            guided["null class"] = {"guidance_scale": [GUIDED]}
            guided["source"] = {"guidance_scale": [GUIDED], "guidance_model": str(source(options.runs))}
        for guidance, how in guided.items():
            given = {"model": str(folder), "guidance_scale": [1.0], "steps": 10, "num_images": options.images}
            given |= {"network": "mobilenet", "metrics": "fid,accuracy", "accuracy_classifier": "cars_32_judge"}
            given |= {"keep_images": False, "precision": options.precision, **how}
            name = f"{folder.name}_{guidance}".replace(" ", "_")
            report = measure(options.reports / name, given)
            row = {"start": start, "seed": seed, "steps": steps, "guidance": guidance}
            row |= {figure: report["metrics"][figure] for figure in FIGURES}
            write_text(options.reports / f"{name}.json", json.dumps(row))
            print(start, seed, steps, guidance, *(f"{row[figure]['value']:.4g}" for figure in FIGURES), flush=True)


def values(rows: list[dict], start: str, steps: int, name: str, guidance: str = "none") -> np.ndarray:
    """A figure of every seed; (seeds,)."""
    wanted = (start, steps, guidance)
    return np.array([row[name]["value"] for row in rows if (row["start"], row["steps"], row["guidance"]) == wanted])


def mean_and_half(found: np.ndarray) -> tuple[float, float]:
    """Mean, and half of its 95% interval over the seeds (Student)."""
    half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def cell(found: np.ndarray, name: str) -> str:
    """A figure with its interval; a dash if it was not measured."""
    if not len(found):
        return "–"
    mean, half = mean_and_half(found)
    return f"{mean:.0f} ± {half:.0f}" if name == "fid" else f"{mean:.0%} ± {half:.0%}"


def markdown(rows: list[dict]) -> str:
    """Both starts side by side, a row a length."""
    lines = ["| steps | from the unconditional model | | from random weights | |", "|---:|---:|---:|---:|---:|"]
    lines.append("| | MobileNet-FD | accuracy | MobileNet-FD | accuracy |")
    for steps in (*LENGTHS, WHOLE):
        cells = []
        for start in ("adopted", "scratch"):
            cells += [cell(values(rows, start, steps, name), name) for name in FIGURES]
        lines.append(f"| {steps:,} | {' | '.join(cells)} |")
    lines += ["", f"| guidance of the longest adopted run | {' | '.join(FIGURES.values())} |", "|---|---:|---:|"]
    for guidance in ("none", "null class", "source"):
        cells = [cell(values(rows, "adopted", LENGTHS[-1], name, guidance), name) for name in FIGURES]
        lines.append(f"| {guidance}{'' if guidance == 'none' else f', w = {GUIDED:g}'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], path: Path) -> None:
    """Both figures over the steps, a line a start."""
    figure = new_figure(9.2, 3.6)
    starts = {"adopted": ("from the unconditional model", ORANGE), "scratch": ("from random weights", BLUE)}
    for place, (name, label) in enumerate(FIGURES.items(), 1):
        axes = figure.add_subplot(1, 2, place)
        for start, (text, colour) in starts.items():
            steps = sorted({row["steps"] for row in rows if row["start"] == start})
            found = np.array([mean_and_half(values(rows, start, n, name)) for n in steps])
            axes.errorbar(steps, found[:, 0], found[:, 1], fmt="o-", capsize=3, color=colour, label=text)
        axes.set(xlabel="steps of 16 images", ylabel=label)
        logarithmic(axes, [*LENGTHS, WHOLE])
        if place == 1:
            axes.legend(fontsize=8)
    save_figure(figure, path)


def main() -> None:
    parts = {f"{start}_{seed}": (start, seed) for start in ("adopted", "scratch") for seed in SEEDS}
    runs = Path("runs/finetuning")
    options = parse(__doc__, ["source", *parts, "table"], runs, runs / "reports")
    options.reports.mkdir(parents=True, exist_ok=True)
    if options.part == "source":
        source(options.runs)
    elif options.part in parts:
        train_and_measure(*parts[options.part], options)
    else:
        write_results(options.output / "classes", options.images, read_rows(options.reports), markdown, draw)


if __name__ == "__main__":
    main()
