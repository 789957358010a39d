"""Where should a sampler's few steps lie? Methods of choosing them, on the same trained networks and the same noise.

    for set in digits digits_invariant cars cifar10 shipped; do
      OMP_NUM_THREADS=1 python benchmarks/step_bench.py $set --output docs/forward_process
    done

digits: three networks of configs/digits_16_conditional.yaml, one a seed. digits_invariant: three more, with the
schedule divided out of the loss. cars and cifar10: three networks of 0.7 million parameters each, 3,000 steps of 16
at 32x32; cifar10 needs the images as parquet files in data/local/cifar10. All are trained if they are not there, each
in two to ten minutes on one core. shipped: models/cars_32, with three seeds of its noise. Each method gives n noise
levels, of which a network's nearest timesteps are visited. Every cell is a report in --reports; what is there is not
measured again. The results are written to steps_of_SET.json, tables to steps_of_SET.md and a figure to
steps_of_SET.png. All but the digits need the weights of MobileNetV2: docs/evaluation.md.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_classifier
import train_conditional
from benchmarks.cars import MODELS, ROOT, logarithmic, measure, parse, write_results
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

SOLVERS = {"dpm": "DPM-Solver++", "euler": "DDIM", "ddpm": "DDPM"}
"""Euler steps of the probability flow are DDIM's, at any timesteps."""
SEEDS = (0, 1, 2)
OWN, FITTED = "the network's own", "fitted to the network"
MOST_FITTED = 10
"""Steps for which levels are fitted: the work grows with their square."""
INVARIANT = "schedule-invariant loss"
"""Group of networks for which none are fitted."""
SMALL = {  # the recipe of configs/cars_32_conditional.yaml with a network of 0.7 million parameters
    "unet.block_out_channels": "[16,32,64]",
    "unet.down_block_types": "[DownBlock2D,DownBlock2D,AttnDownBlock2D]",
    "unet.up_block_types": "[AttnUpBlock2D,UpBlock2D,UpBlock2D]",
    "train.max_steps": 3000,  # 48,000 pictures
    "train.timestep_sampling": "uniform",
}
CIFAR10 = {
    "data.data_files": str(ROOT / "data/local/cifar10/train-*.parquet"),
    "data.image_column": "image",
    "data.split": "train[:10000]",
    "scheduler.name": "cosine",
}
CLEANEST = 10.0
"""Log-SNR of the cleanest level: noise of one grey level."""
Levels = Callable[[int], np.ndarray]
"""Log-SNRs of n steps, cleanest first."""


@dataclass
class Replicate:
    """One of several networks of a group, or one of several seeds of the noise of one network."""

    group: str
    folder: Path
    seed: int = 0
    """Of the noise."""
    steps: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {"dpm": (5, 10), "euler": (5, 10), "ddpm": (10,)}
    )
    """Numbers of steps by solver."""


def methods(folder: Path, spectrum: Spectrum, images: np.ndarray, solver: str) -> dict[str, Levels]:
    """Every method of choosing steps, for one network."""
    pipeline = load_pipeline(folder)
    own = trained_log_snr(pipeline.scheduler).numpy()
    cosine = log_snr_of(SCHEDULES["cosine"].alphas_bar(1000))
    theory = "ddpm" if solver == "ddpm" else "ddim"
    local_error: list[np.ndarray] = []
    fit: list[StepFit] = []

    def optimum(n: int) -> np.ndarray:
        return visited_levels(Optimum(spectrum, theory, n).best(0.0, 1.0, cosine), n)

    def of_local_error(n: int) -> np.ndarray:
        if not local_error:
            local_error.append(measured_local_error(network_denoiser(pipeline), images, LEVELS, count=64))
        section = schedule_of_local_error(LEVELS, local_error[0], last=-10.0, first=10.0)
        return visited_levels(log_snr_of(alphas_cumprod_of(section)), n)

    def of_fit(n: int) -> np.ndarray:
        if not fit:
            fit.append(fit_of(pipeline, seed=100))  # other noises than those of the samples
        return fit[0].fit(optimum(n), "dpm" if solver == "dpm" else "ddim")

    found: dict[str, Levels] = {
        OWN: lambda n: visited_levels(own, n),
        "computed optimum in pixels": optimum,
        "Benita et al., W2": lambda n: designed_levels(spectrum, theory, n, "w2"),
        "W2, last level free": lambda n: designed_levels(spectrum, theory, n, "w2", last=None),
        "Benita et al., KL": lambda n: designed_levels(spectrum, theory, n, "kl"),
        "local error of the network": of_local_error,
    }
    return found if solver == "ddpm" else {**found, FITTED: of_fit}


def trained(config: str, folder: Path, settings: dict[str, Any]) -> Path:
    """The folder of a run of this configuration, trained if it is not there."""
    argv = ["--config", str(ROOT / "configs" / config), "--output_dir", str(folder), "--train.trackers", "[]"]
    for key, value in {**settings, "train.sample_every": 0}.items():
        argv += [f"--{key}", str(value)]
    (train_classifier if config.endswith("classifier.yaml") else train_conditional).main(argv)
    return folder


def digits(runs: Path) -> tuple[list[Replicate], dict[str, Any]]:
    """Three networks of the digits, and how they are measured."""
    steps = (4, 5, 8, 10, 20)
    return digits_of(runs, "uniform", "plain loss", {"dpm": steps, "euler": steps, "ddpm": (10, 20)})


def digits_invariant(runs: Path) -> tuple[list[Replicate], dict[str, Any]]:
    """Three networks of the digits with the schedule divided out of the loss."""
    return digits_of(runs, "schedule_invariant", INVARIANT, {"dpm": (10,), "euler": (10,), "ddpm": (10,)})


def digits_of(
    runs: Path, loss: str, group: str, steps: dict[str, tuple[int, ...]]
) -> tuple[list[Replicate], dict[str, Any]]:
    """A network of the digits for each seed, with a `train.loss_weighting`."""
    classifier = runs / "digits_classifier"
    config = ROOT / "configs/digits_16_classifier.yaml"
    train_classifier.main(["--config", str(config), "--output_dir", str(classifier), "--train.trackers", "[]"])
    models = []
    for seed in SEEDS:
        settings = {"train.seed": seed, "train.loss_weighting": loss}
        folder = trained("digits_16_conditional.yaml", runs / f"digits_{loss}_{seed}", settings)
        models.append(Replicate(group, folder, steps=steps))
    return models, {"network": str(classifier)}


def cars(runs: Path) -> tuple[list[Replicate], dict[str, Any]]:
    """Three small networks of the cars on the sigmoid schedule."""
    return small(runs, "cars", {}), {"network": "mobilenet"}


def cifar10(runs: Path) -> tuple[list[Replicate], dict[str, Any]]:
    """Three small networks of CIFAR-10 on the cosine schedule."""
    return small(runs, "cifar10", CIFAR10), {"network": "mobilenet"}


def small(runs: Path, name: str, settings: dict[str, Any]) -> list[Replicate]:
    """A small network for each seed."""
    return [
        Replicate(
            "small networks",
            trained("cars_32_conditional.yaml", runs / f"{name}_{seed}", {**SMALL, **settings, "train.seed": seed}),
        )
        for seed in SEEDS
    ]


def shipped(runs: Path) -> tuple[list[Replicate], dict[str, Any]]:
    """The conditional model that ships, with the solver that sample.py takes."""
    models = [Replicate("models/cars_32", MODELS / "cars_32", seed, {"dpm": (5, 10, 20)}) for seed in SEEDS]
    return models, {"network": "mobilenet", "reference": str(ROOT / "configs/cars_32_conditional.yaml")}


SETS = {"digits": digits, "digits_invariant": digits_invariant, "cars": cars, "cifar10": cifar10, "shipped": shipped}


def main() -> None:
    options = parse(__doc__, SETS, Path("runs/step_bench"), Path("runs/step_bench/reports"))
    replicates, protocol = SETS[options.part](options.runs)
    config = Path(protocol.get("reference", replicates[0].folder / "config.yaml"))
    images, spectrum = measured(config)
    rows = []
    options.reports.mkdir(parents=True, exist_ok=True)
    for replicate in replicates:
        for solver, numbers in replicate.steps.items():
            for method, levels in methods(replicate.folder, spectrum, images, solver).items():
                for n in numbers:
                    if method == FITTED and (n > MOST_FITTED or replicate.group == INVARIANT):
                        continue
                    cell = f"{options.part} {replicate.folder.name} {solver} {method} {n}"
                    file = options.reports / f"{slug(cell)}.yaml"
                    if not file.exists():
                        section = {"scheduler": knots_at(shown(levels(n)))}
                        write_text(file, yaml.safe_dump(section, default_flow_style=None))
                    given = {
                        **{"metrics": "fid,kid", "solver": solver, "steps": n, "num_images": options.images},
                        **{"model": str(replicate.folder), "timesteps_from": str(file), "seeds": [replicate.seed]},
                        **{"precision": options.precision, "guidance_scale": [1.0], "keep_images": False},
                        **protocol,
                    }
                    report = measure(options.reports / slug(f"{cell} {replicate.seed}"), given)
                    row = {"group": replicate.group, "model": replicate.folder.name, "seed": replicate.seed}
                    row |= {"solver": SOLVERS[solver], "method": method, "steps": n}
                    row |= {"log_snr": yaml.safe_load(file.read_text())["scheduler"]["log_snr"][1:]}
                    rows.append(row | {key: report["metrics"][key] for key in ("fid", "kid")})
                    print(cell, replicate.seed, f"{rows[-1]['fid']['value']:.4g}", flush=True)
    write_results(options.output / f"steps_of_{options.part}", options.images, rows, markdown, draw)


def measured(config: Path) -> tuple[np.ndarray, Spectrum]:
    """The images of a configuration, uint8 (N, C, H, W), and their spectrum."""
    images = np.asarray(open_store(data_section(config), conditional=False).images)
    return images, merged(fit_gaussian(images).spectrum, 0.1)


def shown(levels: np.ndarray) -> np.ndarray:
    """The levels (n,), cleanest first, of which those where nothing is to be seen are moved to CLEANEST or below.

    A table of β in float32 could not hold them.
    """
    return np.minimum(levels, CLEANEST - 0.5 * np.arange(len(levels)))


def slug(cell: str) -> str:
    """The name of a cell as that of a file."""
    return re.sub(r"\W+", "_", cell)


def distances(rows: list[dict], method: str, steps: int) -> np.ndarray:
    """Fréchet distance of every replicate; (R,)."""
    return np.array([row["fid"]["value"] for row in rows if (row["method"], row["steps"]) == (method, steps)])


def gain(found: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Mean over replicates of the change from their own steps in percent, and half of its 95% interval (Student)."""
    change = 100 * (found / own - 1)
    half = float(student.ppf(0.975, len(change) - 1)) * change.std(ddof=1) / np.sqrt(len(change))
    return float(change.mean()), float(half)


def markdown(rows: list[dict]) -> str:
    """A table for each group and solver: the mean distance, and the change from the network's own steps.

    A change whose interval excludes 0 is in bold.
    """
    lines = []
    for group, solver in dict.fromkeys((row["group"], row["solver"]) for row in rows):
        mine = [row for row in rows if (row["group"], row["solver"]) == (group, solver)]
        numbers = sorted({row["steps"] for row in mine})
        lines += [f"**{group}, {solver}**", "", f"| levels | {' | '.join(f'{n} steps' for n in numbers)} |"]
        lines += ["|---" * (1 + len(numbers)) + "|"]
        for method in dict.fromkeys(row["method"] for row in mine):
            cells = []
            for n in numbers:
                found = distances(mine, method, n)
                if not len(found):
                    cells.append("–")
                elif method == OWN:
                    cells.append(f"{found.mean():.3g}")
                else:
                    mean, half = gain(found, distances(mine, OWN, n))
                    change = f"{mean:+.0f} ± {half:.0f}%"
                    cells.append(f"{found.mean():.3g} ({f'**{change}**' if abs(mean) > half else change})")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Distance over the number of steps, a line a method and a panel a solver, of the first group."""
    rows = [row for row in rows if row["group"] == rows[0]["group"]]
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    figure = new_figure(4.6 * len(solvers), 4.2)
    for place, solver in enumerate(solvers, 1):
        axes = figure.add_subplot(1, len(solvers), place)
        mine = [row for row in rows if row["solver"] == solver]
        for method in dict.fromkeys(row["method"] for row in mine):
            numbers = sorted({row["steps"] for row in mine if row["method"] == method})
            means = [distances(mine, method, n).mean() for n in numbers]
            style = {"color": "black", "linewidth": 2.5} if method == OWN else {"linewidth": 1.4}
            axes.plot(numbers, means, "o-", label=method, **style)
        own = [distances(mine, OWN, n).mean() for n in sorted({row["steps"] for row in mine})]
        # What is much worse than the network's own levels leaves the picture at the top.
        axes.set(title=solver, xlabel="steps", ylim=(0.8 * min(own), 1.25 * max(own)))
        logarithmic(axes, sorted({row["steps"] for row in mine}))
        if place == 1:
            axes.set_ylabel("Fréchet distance")
            axes.legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
