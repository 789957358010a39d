"""Where should a sampler's few steps lie? Methods of choosing them, on the same trained networks and the same noise.

    OMP_NUM_THREADS=1 python benchmarks/step_bench.py digits --output docs/forward_process
    OMP_NUM_THREADS=1 python benchmarks/step_bench.py cars --output docs/forward_process

digits: three networks of configs/digits_16_conditional.yaml, one a seed, trained if they are not there. cars: the two
models of cars that ship. Each method gives n noise levels, of which a network's nearest timesteps are visited.
Every cell is a report in --reports; what is there is not measured again. The results are written to steps_SET.json,
a table to steps_SET.md and a figure to steps_SET.png. The weights of MobileNetV2 are needed for the cars:
docs/evaluation.md.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_classifier
import train_conditional
from benchmarks.cars import MODELS, ROOT, measure, parse
from cardiff.analysis.fitted_steps import StepFit, fit_of
from cardiff.analysis.local_error import LEVELS, measured_local_error, network_denoiser, schedule_of_local_error
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import Optimum, knots_at
from cardiff.analysis.spectra import fit_gaussian
from cardiff.analysis.spectral_design import designed_levels
from cardiff.config.files import data_section
from cardiff.config.schedules_by_name import alphas_cumprod_of
from cardiff.data import open_store
from cardiff.diffusion.levels import log_snr_of, trained_log_snr, visited_levels
from cardiff.files import write_text
from cardiff.hub.serialization import load_pipeline
from cardiff.plotting import new_figure, save_figure
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum

STEPS = {"digits": (4, 5, 8, 10, 20), "cars": (5, 10, 20)}
FITTED = {"digits": (4, 5, 8, 10), "cars": (5, 10)}
"""Numbers of steps for which levels are fitted: the work grows with their square."""
SOLVERS = {"dpm": "DPM-Solver++", "euler": "DDIM"}  # Euler steps of the probability flow are DDIM's, at any timesteps
SEEDS = (0, 1, 2)
Levels = Callable[[int], np.ndarray]
"""Log-SNRs of n steps, cleanest first."""


def methods(
    folder: Path, spectrum: Spectrum, images: np.ndarray, solver: str, fitted: tuple[int, ...]
) -> dict[str, Levels]:
    """Every method of choosing steps, for one network."""
    pipeline = load_pipeline(folder)
    own = trained_log_snr(pipeline.scheduler).numpy()
    cosine, quadratic = (log_snr_of(SCHEDULES[name].alphas_bar(1000)) for name in ("cosine", "quadratic"))
    local_error: list[np.ndarray] = []
    fit: list[StepFit] = []

    def optimum(n: int) -> np.ndarray:
        return visited_levels(Optimum(spectrum, "ddim", n).best(0.0, 1.0, cosine), n)

    def of_local_error(n: int) -> np.ndarray:
        if not local_error:
            local_error.append(measured_local_error(network_denoiser(pipeline), images, LEVELS, count=64))
        section = schedule_of_local_error(LEVELS, local_error[0], last=-10.0, first=10.0)
        return visited_levels(log_snr_of(alphas_cumprod_of(section)), n)

    def of_fit(n: int) -> np.ndarray:
        if not fit:
            fit.append(fit_of(pipeline, seed=100))  # other noises than those of the samples
        return fit[0].fit(optimum(n), "dpm" if solver == "dpm" else "ddim")

    found = {
        "the network's own": lambda n: visited_levels(own, n),
        "quadratic": lambda n: visited_levels(quadratic, n),
        "computed optimum in pixels": optimum,
        "Benita et al., W2": lambda n: designed_levels(spectrum, "ddim", n, "w2"),
        "W2, last level free": lambda n: designed_levels(spectrum, "ddim", n, "w2", last=None),
        "Benita et al., KL": lambda n: designed_levels(spectrum, "ddim", n, "kl"),
        "local error of the network": of_local_error,
    }
    return {**found, **({"fitted to the network": of_fit} if fitted else {})}


def digits(runs: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Three networks of the digits, and how they are measured."""
    classifier = runs / "digits_classifier"
    quiet = ["--train.trackers", "[]"]
    config = ROOT / "configs/digits_16_classifier.yaml"
    train_classifier.main(["--config", str(config), "--output_dir", str(classifier), *quiet])
    config = ROOT / "configs/digits_16_conditional.yaml"
    models = {f"seed {seed}": runs / f"digits_{seed}" for seed in SEEDS}
    for seed, folder in zip(SEEDS, models.values()):
        train_conditional.main(
            ["--config", str(config), "--output_dir", str(folder), "--train.seed", str(seed), *quiet]
        )
    return models, {"network": str(classifier), "reference": str(config)}


def cars(runs: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The twins that ship."""
    models = {"conditional": MODELS / "cars_32", "unconditional": MODELS / "cars_32_unconditional"}
    return models, {"network": "mobilenet", "reference": str(ROOT / "configs/cars_32_conditional.yaml")}


SETS = {"digits": digits, "cars": cars}


def main() -> None:
    options = parse(__doc__, SETS, Path("runs/step_bench"), Path("runs/step_bench/reports"))
    models, protocol = SETS[options.part](options.runs)
    images = np.asarray(open_store(data_section(Path(protocol["reference"])), conditional=False).images)
    spectrum = merged(fit_gaussian(images).spectrum, 0.1)
    rows = []
    options.reports.mkdir(parents=True, exist_ok=True)
    for model, folder in models.items():
        for solver in SOLVERS:
            for method, levels in methods(folder, spectrum, images, solver, FITTED[options.part]).items():
                for n in FITTED[options.part] if method == "fitted to the network" else STEPS[options.part]:
                    name = re.sub(r"\W+", "_", f"{options.part} {model} {solver} {method} {n}")
                    file = options.reports / f"{name}.yaml"
                    if not file.exists():
                        section = {"scheduler": knots_at(levels(n))}
                        write_text(file, yaml.safe_dump(section, default_flow_style=None))
                    section = yaml.safe_load(file.read_text())["scheduler"]
                    given = {
                        **{"metrics": "fid,kid,prdc", "solver": solver, "steps": n, "num_images": options.images},
                        **{"model": str(folder), "timesteps_from": str(file), "precision": options.precision},
                        **protocol,
                    }
                    if load_pipeline(folder).unet.config.num_class_embeds is not None:
                        given["guidance_scale"] = [1.0]
                    report = measure(options.reports / name, given)
                    row = {"model": model, "solver": SOLVERS[solver], "method": method, "steps": n}
                    row |= {"log_snr": section["log_snr"][1:], "metrics": report["metrics"]}
                    rows.append(row)
                    print(model, solver, method, n, f"{report['metrics']['fid']['value']:.4g}", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    output = options.output / f"steps_of_{options.part}"
    write_text(output.with_suffix(".json"), json.dumps({"images": options.images, "rows": rows}, indent=1) + "\n")
    write_text(output.with_suffix(".md"), markdown(rows))
    draw(rows, output.with_suffix(".png"))


def distances(rows: list[dict], solver: str, method: str, steps: int) -> list[float]:
    """Fréchet distance of every network."""
    return [
        row["metrics"]["fid"]["value"]
        for row in rows
        if (row["solver"], row["method"], row["steps"]) == (solver, method, steps)
    ]


def markdown(rows: list[dict]) -> str:
    """A table a solver: mean over the networks of the distance, and of the difference from their own steps."""
    lines = []
    for solver in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == solver]
        numbers = sorted({row["steps"] for row in mine})
        lines += [f"**{solver}**", "", f"| steps of | {' | '.join(f'{n} steps' for n in numbers)} |"]
        lines += ["|---" * (1 + len(numbers)) + "|"]
        for method in dict.fromkeys(row["method"] for row in mine):
            cells = []
            for n in numbers:
                found, own = (np.array(distances(rows, solver, m, n)) for m in (method, "the network's own"))
                if not len(found):
                    cells.append("–")
                    continue
                gain = 100 * (found / own - 1)
                spread = f" ± {gain.std(ddof=1):.0f}" if len(gain) > 1 else ""
                change = "" if method == "the network's own" else f" ({gain.mean():+.0f}{spread}%)"
                cells.append(f"{found.mean():.3g}{change}")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Distance over the number of steps, a line a method and a panel a solver."""
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    figure = new_figure(5.2 * len(solvers), 4.2)
    for place, solver in enumerate(solvers, 1):
        axes = figure.add_subplot(1, len(solvers), place)
        mine = [row for row in rows if row["solver"] == solver]
        for method in dict.fromkeys(row["method"] for row in mine):
            numbers = sorted({row["steps"] for row in mine if row["method"] == method})
            means = [np.mean(distances(rows, solver, method, n)) for n in numbers]
            own = method == "the network's own"
            axes.plot(
                numbers, means, "o-", label=method, color="black" if own else None, linewidth=2.5 if own else 1.4
            )
        axes.set(title=solver, xlabel="steps", ylabel="Fréchet distance", xscale="log", yscale="log")
        axes.set_xticks(
            sorted({row["steps"] for row in mine}), [str(n) for n in sorted({row["steps"] for row in mine})]
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
