"""Demonstrate the project on cars: continue the training of an early model, draw every kind of car with every kind of
guidance from a fully trained one, and classify the samples.

`make demo` runs it; `python demo.py --output_dir DIR` writes to another folder. A car cannot be recognised until the
model has seen its pictures ten times, so training starts from a shipped model that has; `make demo-digits` trains from
scratch, on digits.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardiff.cli import one_sentence_errors
from cardiff.layout import IS_CHECKOUT, find_data, shipped_config, shipped_model
from cardiff.outputs import folder_of_demonstration

if TYPE_CHECKING:
    import numpy as np

    from cardiff.pipelines import ClassConditionalPipeline

TRAINED_STEPS = 250
LEARNING_RATE = 2e-3  # half of the configuration's; it falls to zero
STEPS = 12  # of DPM-Solver++
SHOWN = 4  # images of each class and kind of guidance in the grids
MEASURED = 12  # images of each class for the accuracies that are printed


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    with folder_of_demonstration(argv, __doc__, "runs/demo") as folder:
        show(folder)


def show(output_dir: Path) -> None:
    """Train, draw and judge, all in one folder."""
    started = time.monotonic()

    from cardiff.hub.serialization import load_classifier, load_pipeline
    from cardiff.plotting import save_labelled_grid
    from cardiff.sampling.kinds import Drawn, draw_kinds, grid_blocks
    from cardiff.sampling.solvers import make_solver

    run = output_dir / "run"
    if not train_on(shipped("cars_32_early"), run, TRAINED_STEPS, LEARNING_RATE):
        return  # interrupted: the same command resumes
    judge, right = make_judge()

    # What training did: the same noise and classes, drawn from three models without guidance.
    models = {"after 10 epochs": shipped("cars_32_early"), f"{TRAINED_STEPS} steps later": run}
    models["after 100 epochs"] = shipped("cars_32")
    drawn: Drawn = {}
    for title, folder in models.items():
        pipeline = load_pipeline(folder)
        pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
        drawn |= draw_kinds(pipeline, {title: {"guidance_scale": 1.0}}, {title: MEASURED}, steps=STEPS)
    names = list(pipeline.class_names().values())
    save_labelled_grid(
        grid_blocks(drawn, len(names), SHOWN),
        names,
        list(models),
        output_dir / "training.png",
        zoom=2,
        blocks_per_line=3,
    )

    # What guidance does: the same noise and classes for each kind, drawn from the last of the three.
    worse = load_pipeline(models["after 10 epochs"]).unet
    guide, _ = load_classifier(shipped("cars_32_classifier"))
    kinds: dict[str, dict[str, Any]] = {  # arguments of the pipeline
        "guidance 0 (no label)": {"guidance_scale": 0.0},
        "guidance 1": {"guidance_scale": 1.0},
        "guidance 1.5": {"guidance_scale": 1.5},
        "guidance 3": {"guidance_scale": 3.0},
        "guidance 3 in [-1, 2)": {"guidance_scale": 3.0, "guidance_interval": (-1.0, 2.0)},
        "CFG++ 0.3": {"guidance_scale": 0.3, "cfg_plus_plus": True},
        "autoguidance 2": {"guidance_scale": 2.0, "guidance_unet": worse},
        "classifier 1": {"guidance_scale": 1.0, "classifier": guide, "classifier_scale": 1.0},
    }
    measured = list(kinds)[:4]
    counts = {kind: MEASURED if kind in measured else SHOWN for kind in kinds}
    guided = draw_kinds(pipeline, kinds, counts, steps=STEPS)
    save_labelled_grid(
        grid_blocks(guided, len(names), SHOWN), names, list(kinds), output_dir / "grid.png", zoom=2, blocks_per_line=4
    )
    strip = draw_strip(pipeline, names)
    save_labelled_grid(strip, names, [f"x_t after each of {STEPS} steps"], output_dir / "strip.png", zoom=2)

    print(f"\nLook at {output_dir / 'training.png'}, {output_dir / 'grid.png'} and {output_dir / 'strip.png'}")
    print(f"A classifier that is right for {right:.1%} of other views of the real cars classifies as requested, of")
    for kind, (images, labels) in {**drawn, **{kind: guided[kind] for kind in measured}}.items():
        print(f"  {len(images)} samples, {kind + ':':<25} {judge(images, labels):6.1%}")
    command = ".venv/bin/cardiff" if IS_CHECKOUT else "cardiff"
    print(f"Done in {time.monotonic() - started:.0f} s. Next:")
    print(f"  {command} app    # in the browser: guidance, the steps, and noise schedules, with sliders")
    print(f"  {command} sample --labels beetle,coupe --guidance_scale 0,1,2,4 --grid beetles.png")
    print(f"  {command} sample --classifier cars_32_classifier --classifier_scale 0,1,4 --grid classifier.png")
    print(f"  {command} evaluate --model cars_32 --network cars_32_judge --output {output_dir}/evaluation")
    print(f"  {command} publish --model {run} --output {output_dir}/card")
    print(f"  {command} train-conditional --help")
    print(f"  {command.removesuffix('cardiff')}tensorboard --logdir {run}/logs")


def train_on(start: Path, output_dir: Path, steps: int, learning_rate: float, *options: str) -> bool:
    """Train a conditional model of cars for some more steps, with a learning rate that falls to zero.

    Args:
        start: Folder of the model.
        output_dir: Folder of the run.
        steps: How many.
        learning_rate: Of the first step.
        options: Further options of train_conditional.py.

    Returns:
        Whether it was trained to the end, rather than interrupted.
    """
    from cardiff.config.run import parse_run
    from cardiff.hub.serialization import load_pipeline
    from cardiff.training.build import build

    given = ["--config", str(shipped_config("cars_32_conditional")), "--output_dir", str(output_dir)]
    given += ["--train.max_steps", str(steps), "--train.learning_rate", str(learning_rate)]
    given += ["--train.lr_warmup_steps", "0", "--train.checkpoint_every", "125", "--train.sample_every", "0"]
    given += ["--train.timestep_sampling", "uniform", *options]  # as the early model was trained
    trainer = build(parse_run(given, kind="conditional", description=__doc__))
    if trainer.global_step == 0:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.load_state_dict(load_pipeline(start).unet.state_dict())
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    return trainer.finish()


def make_judge() -> tuple[Callable[["np.ndarray", "np.ndarray"], float], float]:
    """The share of images that have the requested class, by a classifier of real renders that guides nothing.

    Returns:
        A function of images, uint8 (N, H, W, C), and classes, (N,); and its result for real views that no network was
        trained on.
    """
    import numpy as np
    import torch

    from cardiff.config.sections import DataConfig
    from cardiff.data import open_store
    from cardiff.evaluation.features.networks import load_network

    network = load_network("cars_32_judge", device=torch.device("cpu"))

    def share(images: np.ndarray, labels: np.ndarray) -> float:
        _, logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        assert logits is not None, "a classifier has them"
        return float((logits.argmax(1).numpy() == labels).mean())

    real = open_store(DataConfig(data_files=find_data("data/cars32_test.parquet"), resolution=32), conditional=True)
    return share, share(np.asarray(real.images).transpose(0, 2, 3, 1), np.asarray(real.labels))


def draw_strip(pipeline: "ClassConditionalPipeline", names: Sequence[str]) -> "np.ndarray":
    """One image of each class after each of the solver's steps, from noise to car.

    Returns:
        uint8 (1, classes · steps, H, W, C)
    """
    import numpy as np
    import torch

    from cardiff.sampling.draw import to_uint8

    frames: list[np.ndarray] = []

    def keep(pipeline: Any, step: int, timestep: int, tensors: dict) -> dict:
        frames.append(to_uint8((tensors["latents"] / 2 + 0.5).clamp(0, 1)))
        return {}

    generator = torch.manual_seed(0)
    pipeline(list(names), 1.5, num_inference_steps=STEPS, generator=generator, callback_on_step_end=keep)
    steps = np.stack(frames, axis=1)  # (classes, steps, H, W, C)
    return steps.reshape(1, -1, *steps.shape[2:])


def shipped(name: str) -> Path:
    """The folder of a shipped model."""
    folder = shipped_model(name)
    assert folder is not None
    return folder


if __name__ == "__main__":
    main()
