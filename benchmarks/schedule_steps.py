"""Where should the steps of a sampler lie? The same denoisers sampled at the noise levels of many schedules.

python benchmarks/schedule_steps.py --models runs/pilot --output docs/forward_process/steps.json

The denoisers are the ideal one of the images as a finite set, and the networks that benchmarks/schedule_pilot.py
trained on the cosine schedule, one for each seed. Only the steps differ, so neither weighting nor training has a part
in it.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from scipy.stats import spearmanr
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.schedule_pilot import SETS, classifier_features, distances
from cardiff.analysis.catalogue import with_spectrum
from cardiff.analysis.errors import sampling_error
from cardiff.analysis.local_error import (
    LEVELS,
    finite_set_denoiser,
    measured_local_error,
    network_denoiser,
    schedule_of_local_error,
)
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import Optimum, knots_of
from cardiff.analysis.spectra import fit_gaussian, octave_arguments
from cardiff.config.schedule import make_schedule
from cardiff.config.schedules_by_name import alphas_cumprod_of
from cardiff.data import open_store
from cardiff.diffusion.levels import exact_log_snr, log_snr_of, timesteps_at, visited_levels
from cardiff.hub.serialization import load_pipeline
from cardiff.pipelines import ClassConditionalPipeline

SECTIONS = {
    "linear": {"name": "linear"},
    "quadratic": {"name": "quadratic"},
    "cosine": {"name": "cosine"},
    "cosine τ=0.5": {"name": "generalised_cosine", "tau": 0.5},
    "sigmoid τ=0.5": {"name": "sigmoid"},
    "sigmoid τ=1": {"name": "sigmoid", "tau": 1.0},
    "linear λ": {"name": "linear_log_snr"},
    "EDM ρ=7": {"name": "edm"},
    "octave geodesic": {"name": "octave"},
    "spectral": {"name": "spectral"},
    "spectral, pixels, DDPM": {"name": "spectral", "pixel_weight": 1.0, "solver": "ddpm"},
    "spectral, pixels, DDIM": {"name": "spectral", "pixel_weight": 1.0, "solver": "ddim"},
}
SOLVERS = {"ddpm": "ddpm", "ddim": "euler"}  # Euler steps of the probability flow are DDIM's, at any timesteps


class FiniteSetUNet(ModelMixin, ConfigMixin):
    """The ideal denoiser of a finite set of images, in the place of a UNet that predicts v."""

    @register_to_config
    def __init__(self, sample_size: int, in_channels: int):
        super().__init__()
        self.register_to_config(num_class_embeds=None)
        self.weight = torch.nn.Parameter(torch.zeros(()))  # what dtype and device are read from

    def set_up(self, images, log_snr):
        self.denoiser, self.log_snr = finite_set_denoiser(images), log_snr
        return self

    def forward(self, x, t, class_labels=None):
        level = float(self.log_snr[int(t)])
        a, sigma = 1 / np.sqrt(1 + np.exp(-level)), 1 / np.sqrt(1 + np.exp(level))
        return UNet2DOutput((a * x - self.denoiser(x, level)) / sigma)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("runs/pilot"), help="folder of schedule_pilot.py")
    parser.add_argument("--set", choices=SETS, default="digits", help="what they learned (default: digits)")
    parser.add_argument("--steps", default="10,20", help="numbers of sampling steps (default: 10,20)")
    parser.add_argument("--output", type=Path, default=Path("runs/steps.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    store = open_store(SETS[options.set], conditional=True)
    images = np.asarray(store.images)
    gaussian = fit_gaussian(images)
    features = classifier_features(images, store.labels)
    networks = {
        folder.name: load_pipeline(folder) for folder in sorted(options.models.glob("cosine_schedule_invariant_*"))
    }
    sections = {name: with_spectrum(section, octave_arguments(gaussian)) for name, section in SECTIONS.items()}
    trained = [measured_local_error(network_denoiser(p), images, LEVELS, count=128) for p in networks.values()]
    local_errors = {
        "Gaussian": gaussian_local_error(gaussian.spectrum),
        "finite set": measured_local_error(finite_set_denoiser(images), images, LEVELS),
        "network": np.mean(trained, axis=0),
    }
    for kind in ("finite set", "network"):
        sections[f"local error of the {kind}"] = schedule_of_local_error(
            LEVELS, local_errors[kind], last=-10.0, first=10.0
        )

    results = {
        "local_errors": {kind: local_error.tolist() for kind, local_error in local_errors.items()},
        "log_snr": LEVELS.tolist(),
    }
    results["rows"] = []
    numbers = [int(number) for number in options.steps.split(",")]
    spectrum = merged(gaussian.spectrum)
    bar = tqdm(total=(len(sections) + 1) * len(SOLVERS) * len(numbers) * (1 + len(networks)), unit="grid")
    for solver in SOLVERS:
        for steps in numbers:
            start = log_snr_of(alphas_cumprod_of(sections["spectral, pixels, DDPM"]))
            best = knots_of(Optimum(merged(spectrum, 0.1), solver, steps).best(0.0, 1.0, start))
            for name, section in {**sections, "optimum in pixels": best}.items():
                levels = log_snr_of(alphas_cumprod_of(section))
                error = sampling_error(spectrum, visited_levels(levels, steps), solver)
                row = {"schedule": name, "solver": solver, "steps": steps, "section": section}
                row |= {"pixels": error.pixels, "octaves": error.octaves}
                exact = finite_set_pipeline(section, images)
                row["finite set"] = distances(exact, SOLVERS[solver], steps, None, images, features)
                bar.update()
                row["network"] = []
                for pipeline in networks.values():
                    timesteps = timesteps_at(pipeline.scheduler, visited_levels(levels, steps))
                    row["network"].append(distances(pipeline, SOLVERS[solver], steps, timesteps, images, features))
                    bar.update()
                results["rows"].append(row)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    bar.close()
    options.output.with_suffix(".md").write_text(markdown(results))


def gaussian_local_error(spectrum) -> np.ndarray:
    """The measured local error's closed form: the root mean square over pixels of √ℓ·w(1 − w)/8."""
    gain = spectrum.gain(LEVELS + 0.5)
    return np.sqrt((spectrum.counts * spectrum.variances) @ (gain * (1 - gain) / 8).T ** 2 / spectrum.counts.sum())


def finite_set_pipeline(section: dict, images: np.ndarray) -> ClassConditionalPipeline:
    """A pipeline around the ideal denoiser, on the schedule itself."""
    scheduler = make_schedule({**section, "prediction_type": "v_prediction"}).to_stock()
    levels = exact_log_snr(scheduler.alphas_cumprod).numpy()
    unet = FiniteSetUNet(images.shape[-1], images.shape[1]).set_up(images, levels)
    return ClassConditionalPipeline(unet, scheduler)


def markdown(results: dict) -> str:
    """One table per solver and number of steps, and how well each measure on paper ranks the distances."""
    lines = []
    for solver in SOLVERS:
        for steps in sorted({row["steps"] for row in results["rows"]}):
            rows = [row for row in results["rows"] if (row["solver"], row["steps"]) == (solver, steps)]
            rows.sort(key=lambda row: mean(row["network"], "pixel"))
            lines += [f"**{solver.upper()}, {steps} steps**", ""]
            lines += ["| steps of | E in pixels | E by octave | finite set, FD | network, FD (features) |"]
            lines += ["|---|---|---|---|---|"]
            for row in rows:
                spread = np.std([d["pixel"] for d in row["network"]], ddof=1)
                lines.append(
                    f"| {row['schedule']} | {row['pixels']:.2e} | {row['octaves']:.2e} "
                    f"| {row['finite set']['pixel']:.2f} | {mean(row['network'], 'pixel'):.2f} ± {spread:.2f} "
                    f"({mean(row['network'], 'feature'):.2f}) |"
                )
            lines += ["", "Rank correlation with the network's distance: " + correlations(rows) + ".", ""]
    return "\n".join(lines)


def mean(found: list[dict], kind: str) -> float:
    return float(np.mean([distance[kind] for distance in found]))


def correlations(rows: list[dict]) -> str:
    """Spearman's rank correlation of each measure with the networks' distances."""
    network = [mean(row["network"], "pixel") for row in rows]
    measures = {
        "E in pixels": [row["pixels"] for row in rows],
        "E by octave": [row["octaves"] for row in rows],
        "distance of the finite set's ideal denoiser": [row["finite set"]["pixel"] for row in rows],
    }
    return ", ".join(f"{name} {spearmanr(values, network).statistic:.2f}" for name, values in measures.items())


if __name__ == "__main__":
    main()
