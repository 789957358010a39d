"""The arithmetic of every shipped configuration, and how long it keeps a card busy: the tables of docs/hardware.md.

    python benchmarks/flops.py

Nothing is measured: the operations are counted from the networks' shapes, and the hours are this count over a share of
the peak that the card's maker states.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cards import PEAKS
from cardiff.config.run import parse_run
from cardiff.config.schedule import make_schedule
from cardiff.config.yaml_file import read_sections
from cardiff.diffusion.flops import forward_flops, training_flops
from cardiff.diffusion.networks import build_classifier, build_unet
from cardiff.layout import shipped_config, shipped_configs

DATA = {
    "digits_16": (1_797, 10),
    "fashion_mnist_32": (60_000, 10),
    "cifar10_32": (50_000, 10),
    "cars_32": (2_000, 10),
    "cars_64": (8_000, 56),
    "aircraft_64": (10_867, 34),
    "stanford_cars_64": (8_144, 196),
    "stanford_cars_128": (8_144, 196),
}
"""Training images and classes of the data of the shipped configurations."""
CARDS = {"T4": "T4", "L4": "L4", "RTX 4090": "RTX 4090", "A100": "A100", "H100 SXM": "H100"}
"""The cards of the tables, by title, with their names in the table of peaks."""
SHARES = (0.4, 0.2)
"""Shares of the peak."""
WORTH = 1e15
"""FLOP of a run below which it takes a GPU seconds."""


@dataclass
class Arithmetic:
    """What a run computes."""

    name: str
    parameters: int
    forward: int
    """FLOP of a forward pass for one image."""
    training: int
    """FLOP of forward and backward for one image."""
    images: int
    """Training images of the whole run, counting repetitions."""

    @property
    def total(self) -> int:
        """FLOP of the whole run."""
        return self.training * self.images

    def hours(self, card: str, share: float) -> float:
        """Hours of a run that reaches this share of the card's peak."""
        return self.total / (PEAKS[CARDS[card]] * 1e12 * share) / 3600


def arithmetic(name: str) -> Arithmetic:
    """The arithmetic of a shipped configuration."""
    path = shipped_config(name)
    assert path is not None
    kind = read_sections(path)["kind"]
    config = parse_run(["--config", str(path), "--output_dir", "."], kind=kind, description="")
    count, classes = DATA[name.rpartition("_")[0]]
    schedule = make_schedule(config.scheduler)
    with torch.device("meta"):
        if kind == "classifier":
            network = build_classifier(config, schedule, [str(label) for label in range(classes)])
        else:
            network = build_unet(config, classes if config.labelled else None)
    train = config.train
    held_out = getattr(train, "validation_fraction", 0.0)
    rows = count - (max(1, round(held_out * count)) if held_out else 0)
    steps = train.max_steps if train.max_steps is not None else math.ceil(train.epochs * rows / train.batch_size)
    return Arithmetic(
        name,
        network.num_parameters(),
        forward_flops(network),
        training_flops(network),
        steps * train.batch_size,
    )


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits of a positive number, such as 0.133, 60.6 or 1,340."""
    places = digits - 1 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(0, places)}f}"


def row(run: Arithmetic) -> str:
    """The line of a run in the first table."""
    cells = (run.parameters / 1e6, run.forward / 1e9, run.training / 1e9, run.images / 1e6, run.total / 1e15)
    return f"| {run.name} | {' | '.join(map(significant, cells))} |"


def row_of_hours(run: Arithmetic, share: float) -> str:
    """The line of a run in the table of this share of the peak."""
    return f"| {run.name} | {' | '.join(significant(run.hours(card, share), 2) for card in CARDS)} |"


def tables(runs: list[Arithmetic]) -> list[str]:
    """Markdown: what each run computes; and the hours of those that are worth a GPU, at each share of the peak."""
    heads = "parameters (10⁶) | forward (GFLOP/image) | training (GFLOP/image) | images (10⁶) | run (PFLOP)"
    found = ["\n".join([f"| configuration | {heads} |", "|---|" + "---:|" * 5, *map(row, runs)])]
    long = [run for run in runs if run.total >= WORTH and not run.name.endswith("_unconditional")]
    for share in SHARES:
        heads = " | ".join(f"{title}, {PEAKS[card]} TFLOP/s" for title, card in CARDS.items())
        lines = [f"| hours at {share:.0%} of the peak | {heads} |", "|---|" + "---:|" * len(CARDS)]
        found.append("\n".join([*lines, *(row_of_hours(run, share) for run in long)]))
    return found


def all_runs() -> list[Arithmetic]:
    """The shipped configurations, in the order of the data's size."""
    names = shipped_configs()
    order = list(DATA)
    return [arithmetic(name) for name in sorted(names, key=lambda n: (order.index(n.rpartition("_")[0]), n))]


if __name__ == "__main__":
    print("\n\n".join(tables(all_runs())))
