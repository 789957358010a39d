"""How far is every schedule from the best there is? The front of structure and sampling error on real spectra.

python benchmarks/schedule_front.py --output docs/forward_process/front.json

Reads the sets whose files are there (the digits always are; the README says where the others go under data/local) and
writes a JSON file with every figure and a Markdown table beside it. About two minutes a set on one core.
"""

import argparse
import itertools
import json
import sys
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.errors import SOLVERS
from cardiff.analysis.measures import GONE, MAX_LEAK, WHOLE, merged
from cardiff.analysis.optimum import Optimum, Point, knots_of, point_of
from cardiff.analysis.spectra import GaussianModel, fit_gaussian, octave_arguments
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.levels import log_snr_of
from cardiff.schedulers.spectrum import Spectrum

ROOT = Path(__file__).parent.parent
LOCAL = ROOT / "data/local"
SETS = {
    "digits 16×16": DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True),
    "Fashion-MNIST 32×32": DataConfig(
        data_files=str(LOCAL / "fashion_mnist/train-*.parquet"), resolution=32, channels=1, fit="pad"
    ),
    "CIFAR-10 32×32": DataConfig(data_files=str(LOCAL / "cifar10/train-*.parquet"), resolution=32),
    "aircraft 64×64": DataConfig(data_files=str(LOCAL / "aircraft64/train.parquet"), resolution=64),
}
STEPS = (10, 50, 250)
FAMILY = {
    "kappa": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
    "pixel_weight": [0.25, 0.5, 0.75, 1.0],
    "max_leak": [8e-4, 1e-5, 1e-6],
}
"""Our schedules: every combination, for the solver at hand."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/front.json"))
    options = parser.parse_args()

    results = {}
    for name, config in SETS.items():
        if not list(Path(config.data_files).parent.glob(Path(config.data_files).name)):
            print(f"{name}: no {config.data_files}, left out")
            continue
        images = open_store(config, conditional=False).images
        model = fit_gaussian(images)
        results[name] = {"images": len(images), "rows": measure_set(name, model)}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table = options.output.with_suffix(".md")
    table.write_text(markdown(results))
    print(f"Wrote {options.output} and {table}")


def measure_set(name: str, model: GaussianModel) -> list[dict]:
    """One row a solver, number of steps and published schedule without a leak."""
    spectrum = merged(model.spectrum, 0.1)
    described = octave_arguments(model)
    published = {key: log_snr_of(alphas_cumprod_of(section)) for key, section in PUBLISHED.items()}
    tight = {key: table for key, table in published.items() if model.spectrum.leak(table[-1]) <= MAX_LEAK}
    rows = []
    bar = tqdm(total=len(SOLVERS) * len(STEPS) * len(tight), desc=name, unit="schedule")
    for solver in SOLVERS:
        sections = [
            {"name": "spectral", **described, "solver": solver, **dict(zip(FAMILY, values))}
            for values in itertools.product(*FAMILY.values())
        ]
        sections, family = build(sections, model)
        for steps in STEPS:
            front = Optimum(spectrum, solver, steps)
            ours = [point_of(spectrum, table, solver, steps) for table in family]
            distances = {}
            for key, table in tight.items():
                theirs = point_of(spectrum, table, solver, steps)
                # The member with at least their structure that divides both their errors by the most.
                gains = [lead(mine, theirs) for mine in ours]
                best = int(np.argmax(gains))
                if best not in distances:
                    distances[best] = front.distance(ours[best], family[best])[0]
                # Any start is good: the farthest point that a search shows is the distance.
                shown, optimum = max(
                    (front.distance(theirs, start) for start in (family[best], table)), key=itemgetter(0)
                )
                knots = log_snr_of(alphas_cumprod_of(knots_of(optimum)))
                rows.append(
                    {
                        "solver": solver,
                        "steps": steps,
                        "schedule": key,
                        "theirs": asdict(theirs),
                        "their_distance": np.expm1(max(shown, gains[best])),
                        "family": asdict(ours[best]),
                        "family_parameters": {k: sections[best][k] for k in FAMILY},
                        "family_factor": np.exp(gains[best]),
                        "family_distance": np.expm1(max(distances[best], 0.0)),
                        "family_idle": idle(spectrum, family[best]),
                        "knots": asdict(point_of(spectrum, knots, solver, steps)),
                        "knots_factor": np.exp(lead(point_of(spectrum, knots, solver, steps), theirs, slack=1e-3)),
                        "knots_idle": idle(spectrum, knots),
                    }
                )
                bar.update()
    bar.close()
    return rows


def build(sections: list[dict], model: GaussianModel) -> tuple[list[dict], list[np.ndarray]]:
    """The sections that make a schedule without a leak, and their log-SNRs."""
    kept, tables = [], []
    for section in sections:
        try:
            table = log_snr_of(alphas_cumprod_of(section))
        except ValueError:
            continue  # it would buy structure by idling, and says so
        if model.spectrum.leak(table[-1]) <= MAX_LEAK:
            kept.append(section)
            tables.append(table)
    return kept, tables


def lead(ours: Point, theirs: Point, slack: float = 0.0) -> float:
    """Logarithm of the largest factor by which both errors are smaller; −∞ with less structure."""
    if ours.structure < theirs.structure - slack:
        return -np.inf
    return min(np.log(theirs.pixels / ours.pixels), np.log(theirs.octaves / ours.octaves))


def idle(spectrum: Spectrum, log_snr: np.ndarray) -> list[float]:
    """Shares of the timesteps at which every octave is intact, and at which every octave is gone."""
    gain = spectrum.gain(log_snr)
    return [float((gain.min(1) > WHOLE).mean()), float((gain.max(1) < GONE).mean())]


def markdown(results: dict) -> str:
    """A table a set: the published schedules' distances, and how far ours is ahead of each and from the front."""
    lines = []
    for name, result in results.items():
        rows = result["rows"]
        lines += [f"**{name}** ({result['images']:,} images)", ""]
        columns = [(solver, steps) for solver in SOLVERS for steps in STEPS]
        heads = [f"{solver.upper()} {steps}" for solver, steps in columns]
        lines += ["| schedule | A | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
        cells = {(row["schedule"], row["solver"], row["steps"]): row for row in rows}
        schedules = sorted(
            {row["schedule"] for row in rows}, key=lambda key: cells[key, *columns[1]]["their_distance"]
        )
        for key in schedules:
            found = [cells[key, *column] for column in columns]
            shown = [
                f"+{100 * row['their_distance']:.0f}% (×{row['family_factor']:.2f}, ×{row['knots_factor']:.2f})"
                for row in found
            ]
            lines.append(f"| {key} | {found[0]['theirs']['structure']:.3f} | " + " | ".join(shown) + " |")
        worst = [max(row["family_distance"] for row in rows if (row["solver"], row["steps"]) == c) for c in columns]
        idle = [
            max(max(row["family_idle"][0], row["knots_idle"][0]) for row in rows if (row["solver"], row["steps"]) == c)
            for c in columns
        ]
        lines.append(
            "| *our members used: farthest from the front* | | " + " | ".join(f"+{100 * w:.1f}%" for w in worst) + " |"
        )
        lines.append(
            "| *the same: most steps idle near the clean image* | | "
            + " | ".join(f"{100 * i:.1f}%" for i in idle)
            + " |"
        )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
