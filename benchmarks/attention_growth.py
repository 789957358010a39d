"""How queries and keys grow under Muon, with and without weight decay: the table of docs/recipe.md, section 4.

    OMP_NUM_THREADS=1 python benchmarks/attention_growth.py [--weight_decay 0.1] --output runs/growth

Trains the small UNet of benchmarks/recipe.py at four times its learning rate, so that the failure comes after minutes,
and prints the largest entry of a query and of a key every 100 steps, until a weight is not finite.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.recipe import BEST, LAST, network, trial_config
from cardiff.training.build import build

LEARNING_RATE, STEPS, EVERY = 1.6e-2, 1200, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weight_decay", type=float, default=0.0)
    parser.add_argument("--output", type=Path, default=Path("runs/growth"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    trial = {
        **BEST,
        **network([16, 32, 64], LAST),
        "train.learning_rate": LEARNING_RATE,
        "train.lr_schedule": "constant_with_warmup",
        "train.weight_decay": options.weight_decay,
    }
    config, _ = trial_config(trial, options.output / str(options.weight_decay), seed=0, budget=16e12)
    trainer = build(config)
    largest: dict[str, float] = {}

    def watch(name: str):
        return lambda module, inputs, output: largest.update({name: float(output.detach().abs().max())})

    for name, module in trainer.model.named_modules():
        if name.endswith(("to_q", "to_k")):
            module.register_forward_hook(watch(name))
    while trainer.global_step < STEPS:
        trainer.step()
        finite = all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
        if trainer.global_step % EVERY == 0 or not finite:
            shown = {kind: max(v for name, v in largest.items() if name.endswith(kind)) for kind in ("to_q", "to_k")}
            print(f"step {trainer.global_step}: {shown}{'' if finite else ', and the weights are not finite'}")
        if not finite:
            break


if __name__ == "__main__":
    main()
