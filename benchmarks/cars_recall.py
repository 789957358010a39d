"""Why does guidance raise the recall of the cars and lower their precision?

    OMP_NUM_THREADS=1 python benchmarks/cars_recall.py --output docs/cars

It draws from the model that ships at several guidance scales, with the same noise. A real picture counts as recalled
if it lies within the reach of a sample, which is the distance to that sample's third neighbour among the samples. So
recall rises where samples lie nearer to more real pictures, and also where they only lie farther apart from each
other. The table has recall with the reaches measured, and with one reach for all, the median of those without
guidance; and precision of the samples as drawn, and with each octave's power put back to that of the real pictures.
The weights of MobileNetV2 are needed: docs/evaluation.md.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.spectra import fit_gaussian, to_float
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.evaluation.features.extraction import extract
from cardiff.evaluation.features.network import FeatureNetwork
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.metrics.neighbours import precision_recall, squared_reach
from cardiff.evaluation.metrics.pairwise import squared_distances
from cardiff.files import write_text
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.kinds import draw_kinds
from cardiff.sampling.solvers import make_solver

ROOT = Path(__file__).parent.parent
STEPS, NEIGHBOURS = 20, 3
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
UNGUIDED = "w = 1"
SETS = ("cars32", "cars32_test")
COLUMNS = {
    "precision": "precision",
    "reshaped": "precision, real spectrum",
    "recall": "recall",
    "fixed": "recall, one reach",
    "reach": "reach",
    "gap": "to the nearest real",
    "contrast": "contrast",
    "detail": "fine detail",
}


def kinds() -> dict[str, dict]:
    """Arguments of the pipeline for each row."""
    found: dict[str, dict] = {f"w = {w:g}": {"guidance_scale": w} for w in SCALES}
    worse = load_pipeline(ROOT / "models/cars_32_early").unet
    found["autoguidance, w = 2"] = {"guidance_scale": 2.0, "guidance_unet": worse}
    return found


class Shape:
    """The colour components of the real pictures, and the power of each of their octaves."""

    def __init__(self, images: np.ndarray) -> None:
        """Measure them; images uint8 (N, C, H, H)."""
        self.model = fit_gaussian(images)
        self.octaves = self.model.spectrum.octaves.reshape(self.model.mean.shape)[0]
        self.powers = self.octave_powers(self.coefficients(images)[1])

    def coefficients(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean image (C, H, H) and the Fourier coefficients of the deviations from it (N, C, H, H)."""
        mean = to_float(images).mean(0)
        return mean, self.model.transform(to_float(images) - mean)

    def octave_powers(self, coefficients: np.ndarray) -> np.ndarray:
        """Mean power by colour component and octave; (C, octaves)."""
        power = (np.abs(coefficients) ** 2).mean(0)
        return np.stack([power[:, self.octaves == k].mean(1) for k in range(self.octaves.max() + 1)], 1)

    def restored(self, images: np.ndarray) -> np.ndarray:
        """Images with each octave amplified so that it has the real pictures' power; uint8 (N, C, H, H)."""
        mean, found = self.coefficients(images)
        gain = np.sqrt(self.powers / self.octave_powers(found))[:, self.octaves]
        shaped = np.einsum("ndhw,cd->nchw", np.fft.ifft2(found * gain, norm="ortho").real, self.model.components)
        return np.clip(np.rint((mean + shaped + 1) * 127.5), 0, 255).astype(np.uint8)

    def contrast_and_detail(self, images: np.ndarray) -> tuple[float, float]:
        """Standard deviation from the mean image, and amplitude of the finest octave, as ratios to the real ones."""
        found = self.octave_powers(self.coefficients(images)[1])
        modes = np.bincount(self.octaves.ravel())
        contrast = np.sqrt((found @ modes).sum() / (self.powers @ modes).sum())
        return float(contrast), float(np.sqrt(found[:, -1].sum() / self.powers[:, -1].sum()))


def features(network: FeatureNetwork, images: np.ndarray) -> np.ndarray:
    """Features float64 (N, D) of uint8 images (N, C, H, W)."""
    return extract(network, images, 100)[0].astype(np.float64)


def measure(images: np.ndarray, shape: Shape, network: FeatureNetwork, real: np.ndarray, reach: float | None) -> dict:
    """A row of the table.

    Args:
        images: Samples, uint8 (N, C, H, W).
        shape: Of the real pictures.
        network: Of the features.
        real: Features of the real pictures; (M, D).
        reach: The one reach; None for the median of these samples.
    """
    found = features(network, images)
    precision, recall = precision_recall(found, real, NEIGHBOURS)
    distances = squared_distances(found, real)
    own = np.sqrt(squared_reach(found, NEIGHBOURS))
    reach = float(np.median(own)) if reach is None else reach
    contrast, detail = shape.contrast_and_detail(images)
    return {
        "precision": precision.value,
        "reshaped": precision_recall(features(network, shape.restored(images)), real, NEIGHBOURS)[0].value,
        "recall": recall.value,
        "fixed": float((np.sqrt(distances.min(0)) <= reach).mean()),
        "reach": float(np.median(own)),
        "gap": float(np.median(np.sqrt(distances.min(1)))),
        "contrast": contrast,
        "detail": detail,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="of each setting (default: 300)")
    parser.add_argument("--output", type=Path, required=True, help="folder of recall.json and recall.md")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    files = [DataConfig(data_files=str(ROOT / f"data/{name}.parquet"), resolution=32) for name in SETS]
    real, test = (np.asarray(open_store(file, conditional=True).images) for file in files)
    shape, network = Shape(real), load_network("mobilenet", device=torch.device("cpu"))
    reference = features(network, real)
    pipeline = load_pipeline(ROOT / "models/cars_32")
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    each, rows = options.images // len(pipeline.class_names()), {}
    for name, guidance in kinds().items():
        drawn = draw_kinds(pipeline, {name: guidance}, {name: each}, steps=STEPS)[name][0].transpose(0, 3, 1, 2)
        rows[name] = measure(drawn, shape, network, reference, rows[UNGUIDED]["reach"] if rows else None)
        print(name, rows[name], flush=True)
    some = np.random.default_rng(0).choice(len(test), len(drawn), replace=False)
    rows["test views"] = measure(test[some], shape, network, reference, rows[UNGUIDED]["reach"])
    write_text(options.output / "recall.json", json.dumps({"images": len(drawn), "rows": rows}, indent=1) + "\n")
    write_text(options.output / "recall.md", table(rows))
    print(table(rows))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, a row for each setting."""
    lines = [f"| setting | {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[key]:.3g}' for key in COLUMNS)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
