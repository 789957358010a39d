"""Which schedule trains best on cars, when each network sees 100,000 pictures?

    for part in min_snr_0 min_snr_1 min_snr_2 schedule_invariant_0 schedule_invariant_1 schedule_invariant_2 table; do
      OMP_NUM_THREADS=1 python benchmarks/cars_schedules.py $part --output docs/forward_process
    done

LOSS_SEED trains one small network of benchmarks/step_bench.py for each schedule, ten minutes each on one core, and
measures 500 images of it three times: with 10 and 25 steps of its own by DPM-Solver++, and with 10 steps at the levels
of sigmoid, so that only what was learned differs. What is there is not done again. table reads the reports and writes
cars_schedules.jsonl and cars_schedules.md. The weights of MobileNetV2 are needed: docs/evaluation.md.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cars import ROOT, measure, parse, read_rows
from benchmarks.step_bench import SEEDS, SMALL, gain, trained
from cardiff.analysis.spectra import fit_gaussian, octave_arguments
from cardiff.config.files import data_section
from cardiff.data import open_store
from cardiff.files import write_text

CONFIG = ROOT / "configs/cars_32_conditional.yaml"
BASE = "sigmoid"
SCHEDULES = (BASE, "cosine", "linear", "spectral")
LOSSES = {"min_snr": "min-SNR weights", "schedule_invariant": "schedule divided out"}
STEPS = 6250
"""Of 16 pictures each, 100,000 in all."""
CELLS = {"own 10": (10, False), "own 25": (25, False), "10 at sigmoid": (10, True)}
"""Steps of DPM-Solver++, and whether they are at the levels of BASE."""


def section(schedule: str) -> dict[str, object]:
    """The settings of a schedule; `spectral` is computed from the pictures."""
    if schedule != "spectral":
        return {} if schedule == BASE else {"scheduler.name": schedule}
    images = np.asarray(open_store(data_section(CONFIG), conditional=False).images)
    arguments = octave_arguments(fit_gaussian(images))
    return {"scheduler.name": schedule, **{f"scheduler.{key}": json.dumps(value) for key, value in arguments.items()}}


def train_and_measure(loss: str, seed: int, runs: Path, reports: Path, images: int, precision: str) -> None:
    """All networks of a loss and a seed."""
    for schedule in SCHEDULES:
        folder = runs / f"{schedule}_{loss}_{seed}"
        settings = {
            **SMALL,
            "train.max_steps": STEPS,
            **section(schedule),
            "train.loss_weighting": loss,
            "train.seed": seed,
        }
        trained("cars_32_conditional.yaml", folder, settings)
        for cell, (steps, shared) in CELLS.items():
            given = {"model": str(folder), "guidance_scale": [1.0], "steps": steps, "num_images": images}
            given |= {"network": "mobilenet", "metrics": "fid,kid,prdc", "keep_images": False}
            given |= {"precision": precision}
            given |= {"timesteps_from": str(CONFIG)} if shared else {}
            report = measure(reports / f"{folder.name}_{cell}".replace(" ", "_"), given)
            write_text(
                reports / f"{schedule}_{loss}_{seed}_{cell}.json".replace(" ", "_"),
                json.dumps({
                    **{"schedule": schedule, "loss": loss, "seed": seed, "cell": cell},
                    **{key: report["metrics"][key] for key in ("fid", "kid", "precision", "recall")},
                }),
            )  # fmt: skip
            print(schedule, loss, seed, cell, f"{report['metrics']['fid']['value']:.4g}", flush=True)


def markdown(rows: list[dict]) -> str:
    """A table for each loss: distances, and the change from BASE with the same seeds; significant ones in bold."""
    lines = []
    for loss, title in LOSSES.items():
        mine = [row for row in rows if row["loss"] == loss]
        if not mine:
            continue
        lines += [f"**{title}**", "", f"| schedule | {' | '.join(CELLS)} |", "|---" * (1 + len(CELLS)) + "|"]
        for schedule in SCHEDULES:
            cells = []
            for cell in CELLS:
                found, base = (
                    np.array([row["fid"]["value"] for row in mine if (row["schedule"], row["cell"]) == (name, cell)])
                    for name in (schedule, BASE)
                )
                text = f"{found.mean():.0f} ± {found.std(ddof=1):.0f}"
                if schedule != BASE:
                    mean, half = gain(found, base)
                    change = f"{mean:+.0f} ± {half:.0f}%"
                    text += f" ({f'**{change}**' if abs(mean) > half else change})"
                cells.append(text)
            lines.append(f"| {schedule} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parts = {f"{loss}_{seed}": (loss, seed) for loss in LOSSES for seed in SEEDS}
    options = parse(__doc__, [*parts, "table"], Path("runs/cars_schedules"), Path("runs/cars_schedules/reports"))
    options.reports.mkdir(parents=True, exist_ok=True)
    if options.part == "table":
        rows = read_rows(options.reports)
        options.output.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        write_text(options.output / "cars_schedules.jsonl", text)
        write_text(options.output / "cars_schedules.md", markdown(rows))
    else:
        train_and_measure(*parts[options.part], options.runs, options.reports, options.images, options.precision)


if __name__ == "__main__":
    main()
