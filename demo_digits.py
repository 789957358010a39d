"""Demonstrate the whole project on the shipped digits: train, draw every class with every kind of guidance, and
classify the samples.

`make demo-digits` runs it; `python demo_digits.py --output_dir DIR` writes the run to another folder.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cardiff.cli import one_sentence_errors
from cardiff.layout import IS_CHECKOUT, shipped_config
from cardiff.outputs import folder_of_demonstration

# After such a short training, more of DDPM's samples are classified as the requested class than DPM-Solver++'s:
# docs/results.md.
SOLVER, STEPS = "ddpm", 20
WORSE = 200  # the step of the checkpoint that autoguidance steers away from
SHOWN = 6  # images of each class and kind of guidance in the grid
MEASURED = {"guidance 1": 40, "guidance 2": 40}  # images of each class for the accuracies that are printed


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    with folder_of_demonstration(argv, __doc__, "runs/demo_digits") as folder:
        show(folder)


def show(output_dir: Path) -> None:
    """Train, sample and classify the samples, all in one folder."""
    started = time.monotonic()

    import numpy as np

    from cardiff.config.run import parse_run
    from cardiff.data import open_store
    from cardiff.evaluation.features.image_classifier import fit_image_classifier
    from cardiff.hub.serialization import load_classifier, load_pipeline
    from cardiff.plotting import save_labelled_grid
    from cardiff.sampling.kinds import draw_kinds, grid_blocks
    from cardiff.sampling.solvers import make_solver
    from cardiff.scripts import train_classifier, train_conditional
    from cardiff.training.checkpoint import checkpoint_dir

    # Train the model, and a classifier to guide it.
    options = ["--config", str(shipped_config("digits_16_conditional")), "--output_dir", str(output_dir)]
    classifier_dir = output_dir / "classifier"
    config = shipped_config("digits_16_classifier")
    if not train_conditional.main(options):
        return  # interrupted: the same command resumes
    if not train_classifier.main(["--config", str(config), "--output_dir", str(classifier_dir)]):
        return

    # Draw: the same noise and classes for each kind of guidance.
    store = open_store(parse_run(options, kind="conditional", description=__doc__).data, conditional=True)
    assert store.labels is not None
    classifier = fit_image_classifier(np.asarray(store.images), store.labels)
    pipeline = load_pipeline(output_dir)
    pipeline.scheduler = make_solver(pipeline.scheduler, SOLVER)
    worse = load_pipeline(checkpoint_dir(output_dir / "checkpoints", WORSE)).unet
    noisy_classifier, _ = load_classifier(classifier_dir)
    kinds: dict[str, dict[str, Any]] = {  # arguments of the pipeline
        "no label (guidance 0)": {"guidance_scale": 0.0},
        "guidance 1": {"guidance_scale": 1.0},
        "guidance 2": {"guidance_scale": 2.0},
        "guidance 4": {"guidance_scale": 4.0},
        "guidance 4 in [-1, 2)": {"guidance_scale": 4.0, "guidance_interval": (-1.0, 2.0)},
        "CFG++ 0.5": {"guidance_scale": 0.5, "cfg_plus_plus": True},
        "autoguidance 2": {"guidance_scale": 2.0, "guidance_unet": worse},
        "classifier 1": {"guidance_scale": 1.0, "classifier": noisy_classifier, "classifier_scale": 1.0},
    }
    drawn = draw_kinds(pipeline, kinds, {kind: MEASURED.get(kind, SHOWN) for kind in kinds}, steps=STEPS)
    lines = [
        f"  {classifier.accuracy(*drawn[kind]):6.1%} of {len(drawn[kind][0])} samples at {kind} as the requested class"
        for kind in MEASURED
    ]
    grid = output_dir / "grid.png"
    blocks = grid_blocks(drawn, len(store.class_names), SHOWN)
    save_labelled_grid(blocks, store.class_names, list(kinds), grid, zoom=3, blocks_per_line=4)

    command = ".venv/bin/cardiff" if IS_CHECKOUT else "cardiff"
    print(f"\nLook at {grid}")
    print(f"A classifier with an accuracy of {classifier.held_out_accuracy:.1%} on held-out real digits classifies")
    print("\n".join(lines))
    print(f"Done in {time.monotonic() - started:.0f} s. Next:")
    print(f"  {command} sample --model {output_dir} --labels 3,seven --guidance_scale 2 --grid sevens.png")
    print(f"  {command} sample --model {output_dir} --classifier {classifier_dir} --grid classifier.png")
    print(f"  {command} evaluate --model {output_dir} --network pixels --output {output_dir}/evaluation")
    print(f"  {command} publish --model {output_dir} --output {output_dir}/card")
    print(f"  {command} train-conditional --help")
    print(f"  {command.removesuffix('cardiff')}tensorboard --logdir {output_dir}/logs")


if __name__ == "__main__":
    main()
