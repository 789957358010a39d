"""What the models of all 56 cars learned when: a table and a figure of docs/cars.md, section 8.

    OMP_NUM_THREADS=1 python benchmarks/cars56.py progress --images 560 --output docs/cars

It reads runs/cars56_50/conditional and unconditional, trained as section 11 says with --train.keep_checkpoints_every
2500, and judges by runs/cars56_50/judge. Every row is a report in --reports; what is there is not measured again. The
weights of MobileNetV2 are needed: docs/evaluation.md.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cars import measure_all, parse
from cardiff.config.files import data_section
from cardiff.data import open_store
from cardiff.hub.serialization import load_pipeline
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import make_solver
from cardiff.training.checkpoint import checkpoint_dir

STEPS_PER_EPOCH = 250
EPOCHS = (10, 20, 30, 40, 50)
STEPS = 10
"""Of DPM-Solver++: more do not bring the samples of cars nearer to the data (docs/cars.md, section 3)."""
SHOWN = 8
"""Classes in the figure, spread over all."""


def progress(runs: Path) -> dict[str, dict[str, Any]]:
    """Both twins after more and more epochs."""
    rows = {}
    for epochs in EPOCHS:
        for name, kind, scale in (("w = 1", "conditional", [1.0]), ("twin", "unconditional", None)):
            model = checkpoint_dir(runs / kind / "checkpoints", epochs * STEPS_PER_EPOCH)
            rows[f"{name}, {epochs} epochs"] = {
                **{"model": str(model), "reference": str(runs / "conditional/config.yaml")},
                **{"accuracy_classifier": str(runs / "judge"), "steps": STEPS},
                **({} if scale is None else {"guidance_scale": scale}),
            }
    return rows


def draw_progress(runs: Path, path: Path) -> None:
    """The same noise and classes from more and more trained models at w = 2, next to real pictures of the classes."""
    store = open_store(data_section(runs / "conditional/config.yaml"), conditional=True)
    assert store.labels is not None
    labels = np.asarray(store.labels)
    classes = np.linspace(0, len(store.class_names) - 1, SHOWN).round().astype(int)
    blocks = []
    for epochs in EPOCHS:
        pipeline = load_pipeline(checkpoint_dir(runs / "conditional/checkpoints", epochs * STEPS_PER_EPOCH))
        pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
        images, _ = draw(
            pipeline,
            range(3 * SHOWN),
            seed=0,
            labels=classes.repeat(3).tolist(),
            guidance_scale=2.0,
            steps=STEPS,
            batch_size=24,
        )
        blocks.append(images)
    real = [np.flatnonzero(labels == label)[:3] for label in classes]
    blocks.append(np.asarray(store.images)[np.concatenate(real)].transpose(0, 2, 3, 1))
    titles = [*(f"{epochs} epochs" for epochs in EPOCHS), "real"]
    names = [store.class_names[label] for label in classes]
    save_labelled_grid(np.stack(blocks), names, titles, path, zoom=1, blocks_per_line=len(titles))


def main() -> None:
    options = parse(__doc__, ["progress"], Path("runs/cars56_50"), Path("runs/cars56_50/reports"))
    options.output.mkdir(parents=True, exist_ok=True)
    draw_progress(options.runs, options.output / "progress56.png")
    measure_all(progress(options.runs), options, "progress56")


if __name__ == "__main__":
    main()
