"""What the solver and its number of steps do to the share of digits that a classifier reads as asked for.

python benchmarks/solvers.py runs/demo ddpm:20 dpm:25 ddim:25
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.evaluation.features.image_classifier import fit_image_classifier
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import make_solver

ROOT = Path(__file__).parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model trained by configs/digits_16_conditional.yaml")
    parser.add_argument("solvers", nargs="+", help="SOLVER:STEPS, as many as you like")
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--per_class", type=int, default=60, help="images of each class (default: 60)")
    options = parser.parse_args()

    pipeline = load_pipeline(options.model)
    trained = pipeline.scheduler
    config = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
    digits = open_store(config, conditional=True)
    classifier = fit_image_classifier(np.asarray(digits.images), digits.labels)
    labels = np.resize(np.arange(10), 10 * options.per_class)
    for name in options.solvers:
        solver, steps = name.split(":")
        pipeline.scheduler = make_solver(trained, solver)
        settings = {"seed": 0, "guidance_scale": options.guidance_scale, "steps": int(steps), "batch_size": 100}
        images, _ = draw(pipeline, range(len(labels)), labels=labels.tolist(), **settings)
        share = classifier.accuracy(images, labels)
        print(f"{solver} {steps} steps, guidance {options.guidance_scale:g}: {share:.1%} of {len(labels)}", flush=True)


if __name__ == "__main__":
    main()
