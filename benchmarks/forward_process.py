"""Makes every table and figure of docs/forward_process.md and its report, and writes the tables into the report.

python benchmarks/forward_process.py                  # the analyses and the front: some ten minutes on two cores
python benchmarks/forward_process.py --train          # the trained pilot too: about two hours more

Without --train the results of the pilot that lie in docs/forward_process are drawn again. CIFAR-10, Fashion-MNIST and
the aircraft are left out where their files are not under data/local.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.plotting import BLUE, GREEN, ORANGE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/forward_process_report.md"
FOLDER = ROOT / "docs/forward_process"
PILOT = ROOT / "runs/pilot"
CIFAR = Path("data/local/cifar10")
KEPT = ["report.md", "table.md", "table.csv", "spectral.yaml", "optimal.yaml"]
PICTURES = ["noising_strip", "curves", "structure", "octaves", "information", "plane", "density"]
BLACK = "#000000"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train and sample the pilot's models first")
    options = parser.parse_args()
    if options.train:
        run("benchmarks/schedule_pilot.py", "--output", PILOT)
        run("benchmarks/schedule_steps.py", "--models", PILOT, "--output", FOLDER / "steps.json")
        if (ROOT / CIFAR).is_dir():
            folder, which = ROOT / "runs/pilot_cifar10", ("--set", "cifar10")
            learned = ("--schedules", "cosine", "--weightings", "schedule_invariant", "--seeds", "0,1")
            run("benchmarks/schedule_pilot.py", *which, *learned, "--output", folder)
            plain = ("--schedules", "cosine,sigmoid,spectral pixels", "--weightings", "uniform", "--seeds", "0,1")
            run("benchmarks/schedule_pilot.py", *which, *plain, "--output", folder)
            shutil.copy(folder / "results_1000.jsonl", FOLDER / "pilot_cifar10.jsonl")
            shutil.copy(folder / "results_1000.md", FOLDER / "pilot_cifar10.md")
            steps = FOLDER / "steps_cifar10.json"
            run("benchmarks/schedule_steps.py", *which, "--steps", 10, "--models", folder, "--output", steps)
        shutil.copy(PILOT / "results_1000.jsonl", FOLDER / "pilot.jsonl")
        shutil.copy(PILOT / "results_1000.md", FOLDER / "pilot.md")
    analyse("digits", "--config", "configs/digits_16_conditional.yaml")
    cars = ("--schedules", "linear,cosine,sigmoid,laplace,cosine τ=0.5,spectral")
    unused = ["curves", "structure", "information"]
    analyse("cars32", "--config", "configs/cars_32_conditional.yaml", *cars, leave_out=unused)
    if (ROOT / CIFAR).is_dir():
        files = str(CIFAR / "train-*.parquet")
        cifar = ("--data.path", "parquet", "--data.data_files", files, "--data.image_column", "image")
        analyse("cifar10", *cifar, "--data.resolution", "32", leave_out=["noising_strip"])  # its images are not ours
    run("benchmarks/schedule_front.py", "--output", FOLDER / "front.json")
    draw_pilot(FOLDER / "pilot.jsonl", FOLDER / "pilot.png")
    draw_steps(FOLDER / "steps.json", FOLDER / "steps.png")
    PAGE.write_text(with_tables(PAGE.read_text()))
    print(f"Wrote {PAGE.relative_to(ROOT)} and {FOLDER.relative_to(ROOT)}")


def run(script: str, *arguments) -> None:
    """Run one of the project's scripts and stop where it fails."""
    subprocess.run([sys.executable, script, *map(str, arguments)], cwd=ROOT, check=True)


def analyse(name: str, *arguments, leave_out=()) -> None:
    """Analyse a data set and keep its tables and pictures in docs/forward_process."""
    output = ROOT / "runs/forward_process" / name
    run("analyze_schedules.py", *arguments, "--output", output)
    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    for file in [*KEPT, *(f"{picture}.png" for picture in PICTURES if picture not in leave_out)]:
        shutil.copy(output / file, FOLDER / name / file)
    report = FOLDER / name / "report.md"
    text = report.read_text()
    for picture in leave_out:
        text = re.sub(rf"!\[.*?\]\({picture}\.png\)\n\n.*\n\n", "", text)
    report.write_text(text)


def with_tables(text: str) -> str:
    """The page with the tables between its `begin FILE` and `end` comments as the files have them."""

    def fill(match: re.Match) -> str:
        return f"<!-- begin {match[1]} -->\n{(ROOT / match[1]).read_text().strip()}\n<!-- end -->"

    return re.sub(r"<!-- begin (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def draw_pilot(results: Path, path: Path) -> None:
    """One row per schedule, one dot per seed: with the plain loss and with the schedule divided out of it."""
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    columns = {
        "DDPM, 50 steps of its own": "ddpm 50",
        "DDPM, 10 steps of its own": "ddpm 10",
        "DDPM, 10 steps at cosine's levels": "ddpm 10 at cosine",
    }
    plain = [entry for entry in entries if entry["weighting"] == "uniform"]
    names = sorted(
        {entry["schedule"] for entry in plain},
        key=lambda name: -np.mean([e["distances"]["ddpm 50"]["pixel"] for e in plain if e["schedule"] == name]),
    )
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.42 * len(names) + 1.6), sharey=True, layout="constrained")
    for axis, (title, key) in zip(axes, columns.items()):
        for weighting, colour, marker, shift in (
            ("uniform", BLUE, "o", 0.14),
            ("schedule_invariant", ORANGE, "D", -0.14),
        ):
            for row, name in enumerate(names):
                chosen = [e for e in entries if (e["schedule"], e["weighting"]) == (name, weighting)]
                values = [e["distances"][key]["pixel"] for e in chosen]
                axis.plot(values, [row + shift] * len(values), marker, color=colour, ms=4, alpha=0.5, mew=0)
                axis.plot([np.mean(values)], [row + shift], "|", color=colour, ms=11, mew=2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("Fréchet distance on pixels")
        axis.grid(axis="x", color="#dddddd", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    for label, colour, marker in (("plain loss", BLUE, "o"), ("schedule divided out", ORANGE, "D")):
        axes[2].plot([], [], marker, color=colour, label=label)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_steps(results: Path, path: Path) -> None:
    """Where a step is dear, and how well what is computed on paper ranks the samples of trained networks."""
    results = json.loads(results.read_text())
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    styles = {"Gaussian": (BLUE, "-"), "finite set": (GREEN, ":"), "network": (ORANGE, "--")}
    for kind, local_error in results["local_errors"].items():
        colour, line = styles[kind]
        density = np.sqrt(np.maximum(local_error, 0))
        axes[0].plot(results["log_snr"], density / density.sum(), line, color=colour, lw=2, label=kind)
    axes[0].invert_xaxis()
    axes[0].set_xlabel("log-SNR of the step, clean to noise")
    axes[0].set_ylabel("best density of steps, √(local error)")
    axes[0].legend(frameon=False, title="denoiser")
    for axis, (title, value) in zip(axes[1:], MEASURES.items()):
        for (solver, steps), (colour, marker) in MARKS.items():
            rows = [row for row in results["rows"] if (row["solver"], row["steps"]) == (solver, steps)]
            network = [np.mean([found["pixel"] for found in row["network"]]) for row in rows]
            label = f"{solver.upper()}, {steps} steps"
            axis.loglog([value(row) for row in rows], network, marker, color=colour, ms=6, alpha=0.8, label=label)
        axis.set_xlabel(title)
    axes[1].set_ylabel("Fréchet distance of the networks' samples")
    axes[2].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.grid(color="#dddddd", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


MEASURES = {
    "error in pixels, closed form": lambda row: row["pixels"],
    "Fréchet distance, finite set's ideal denoiser": lambda row: row["finite set"]["pixel"],
}
MARKS = {
    ("ddpm", 10): (BLUE, "o"),
    ("ddpm", 20): (BLUE, "s"),
    ("ddim", 10): (ORANGE, "^"),
    ("ddim", 20): (ORANGE, "v"),
}

if __name__ == "__main__":
    main()
