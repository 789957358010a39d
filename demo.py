"""The demo: train on the digits, draw the classes that are asked for, and check them with a classifier.

`make demo` runs it; `python demo.py --output_dir DIR` puts the run elsewhere.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

import train_conditional
from cardiff.cli import one_sentence_errors
from cardiff.config import parse_run
from cardiff.data import open_store
from cardiff.evaluation import fit_image_classifier
from cardiff.hub import load_pipeline
from cardiff.plots import save_labelled_grid
from cardiff.sampling import draw_images, make_solver

CONFIG = Path(__file__).parent / "configs" / "digits_16_conditional.yaml"
# After a training this short, more of DDPM's samples are read correctly than DPM-Solver++'s: docs/results.md.
SOLVER, STEPS = "ddpm", 20
SCALES = (0.0, 1.0, 2.0, 4.0)
SHOWN = 6  # images of each class and scale in the grid
MEASURED = {1.0: 40, 2.0: 40}  # images of each class behind the shares that are printed


@one_sentence_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/demo", help="folder of the run (default: runs/demo)")
    output_dir = Path(parser.parse_args(argv).output_dir)
    started = time.monotonic()

    options = ["--config", str(CONFIG), "--output_dir", str(output_dir)]
    if not train_conditional.main(options):
        return  # interrupted: the same command goes on
    config = parse_run(options, conditional=True, description=__doc__)

    store = open_store(config.data, conditional=True)
    classifier = fit_image_classifier(np.asarray(store.images), store.labels)
    pipeline = load_pipeline(output_dir)
    pipeline.scheduler = make_solver(pipeline.scheduler, SOLVER)
    labels = np.arange(len(store.class_names))
    blocks, shares = [], {}
    counts = {scale: len(labels) * MEASURED.get(scale, SHOWN) for scale in SCALES}
    bar = tqdm(total=sum(counts.values()), desc="sampling", unit="img")
    for scale, count in counts.items():
        wanted = np.resize(labels, count)
        settings = {"seed": 0, "labels": wanted.tolist(), "steps": STEPS, "batch_size": 100}
        images = draw_images(pipeline, range(count), guidance_scale=scale, progress=bar.update, **settings)
        if scale in MEASURED:
            shares[scale] = classifier.accuracy(images, wanted)
        by_class = images[: SHOWN * len(labels)].reshape(SHOWN, len(labels), *images.shape[1:]).swapaxes(0, 1)
        blocks.append(by_class.reshape(-1, *images.shape[1:]))
    bar.close()
    grid = output_dir / "grid.png"
    titles = ["no label (guidance 0)" if scale == 0 else f"guidance {scale:g}" for scale in SCALES]
    save_labelled_grid(np.stack(blocks), store.class_names, titles, grid, zoom=3)

    print(f"\nLook at {grid}")
    print(f"A classifier that reads {classifier.held_out_accuracy:.1%} of held-out real digits correctly reads")
    for scale, share in shares.items():
        print(f"  {share:6.1%} of {counts[scale]} samples at guidance {scale:g} as the class asked for")
    print(f"Done in {time.monotonic() - started:.0f} s. Next:")
    print(f"  .venv/bin/python sample.py --model {output_dir} --labels 3,seven --guidance_scale 2 --grid sevens.png")
    print(f"  .venv/bin/tensorboard --logdir {output_dir}/logs")
    print("  .venv/bin/accelerate launch train_conditional.py --help")


if __name__ == "__main__":
    main()
