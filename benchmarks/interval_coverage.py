"""How often the 95% intervals of evaluate.py cover, on normals and mixtures whose figures are known or averaged.

python benchmarks/interval_coverage.py --output docs/evaluation/interval_coverage.md

Some minutes on one core. An interval should hold what the figure is on average over sets of this size, that of the
extrapolated distance the distance at infinitely many, which is in closed form.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.evaluation.metrics.frechet import Gaussian, frechet_distance, frechet_estimate, frechet_infinity
from cardiff.evaluation.metrics.inception_score import inception_estimate
from cardiff.evaluation.metrics.intervals import Estimate, share
from cardiff.evaluation.metrics.kernel import kernel_estimate
from cardiff.evaluation.metrics.neighbours import density_coverage, precision_recall

REPLICATES = 200  # as evaluate.py has them
DIMENSION = 64
SPECTRUM = np.arange(1, DIMENSION + 1) ** -1.0
REFERENCE = Gaussian(np.zeros(DIMENSION), np.diag(SPECTRUM), 10**6)
MODELS = {"equal to the data": (0.0, 0.0), "near": (0.05, 0.1), "far": (0.3, 0.3)}  # change of scales, of means
CENTRES = np.random.default_rng(0).normal(size=(10, 8)) * 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/interval_coverage.md"))
    parser.add_argument("--repetitions", type=int, default=300, help="sets of images for each row (default: 300)")
    options = parser.parse_args()
    lines = [
        f"| figure | setting | covers, of {options.repetitions} | standard error over the true spread |",
        "|---|---|---|---|",
    ]
    cases = [*frechet_cases(), *kernel_cases(), *neighbour_cases(), *other_cases()]
    for names, setting, draw, truths in tqdm(cases, unit="row"):
        rng = np.random.default_rng(1)
        found = [draw(rng, seed) for seed in range(options.repetitions)]
        for name, estimates, truth in zip(names, zip(*found), truths):
            lines.append(row(name, setting, estimates, truth))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(lines) + "\n")


def row(name: str, setting: str, estimates: tuple[Estimate, ...], truth: float | None) -> str:
    """A line of the table; without a truth the mean over all sets is it."""
    values = np.array([estimate.value for estimate in estimates])
    truth = values.mean() if truth is None else truth
    covered = np.mean([low <= truth <= high for low, high in (estimate.interval() for estimate in estimates)])
    errors = np.mean([estimate.standard_error for estimate in estimates])
    return f"| {name} | {setting} | {covered:.1%} | {errors / values.std():.2f} |"


def frechet_cases() -> Iterator[tuple]:
    """Normals in 64 dimensions with a falling spectrum."""
    for count in (50, 500, 2000):
        for model, (scale, shift) in MODELS.items():
            scales, means = 1 + scale * np.linspace(-1, 1, DIMENSION), shift * np.sqrt(SPECTRUM)
            truth = frechet_distance(Gaussian(means, np.diag(SPECTRUM * scales**2), 10**6), REFERENCE)

            def draw(rng, seed, count=count, scales=scales, means=means):
                x = rng.standard_normal((count, DIMENSION)) * scales * np.sqrt(SPECTRUM) + means
                found = [frechet_estimate(x, REFERENCE, REPLICATES, seed)]
                if count >= 500:
                    found.append(frechet_infinity(x, REFERENCE, REPLICATES, seed).estimate)
                return found

            names = ["Fréchet distance", "extrapolated to infinity"][: 1 + (count >= 500)]
            yield names, f"{count:,} samples, model {model}", draw, [None, truth]


def kernel_cases() -> Iterator[tuple]:
    """White normals in 16 dimensions; then ten classes, so many samples of each as asked for."""
    reference = np.random.default_rng(2).standard_normal((500, 16))
    for model, shift in (("equal to the data", 0.0), ("near", 0.05), ("far", 0.5)):

        def draw(rng, seed, shift=shift):
            return [kernel_estimate(rng.standard_normal((400, 16)) + shift, reference, REPLICATES, seed)]

        yield ["kernel distance"], f"400 samples, model {model}", draw, [None]

    labels = np.repeat(np.arange(10), 40)
    classes = CENTRES[labels] + np.random.default_rng(3).standard_normal((400, 8))
    gaussian = Gaussian.of(classes)

    def draw_classes(rng, seed):
        x = CENTRES[labels] + 0.5 + rng.standard_normal((400, 8))
        return [
            frechet_estimate(x, gaussian, REPLICATES, seed, labels),
            kernel_estimate(x, classes, REPLICATES, seed, strata=labels),
            frechet_estimate(x, gaussian, REPLICATES, seed),
        ]

    names = ["Fréchet distance", "kernel distance", "Fréchet distance, resampled without regard to class"]
    yield names, "400 samples, 40 of each of 10 classes, model far", draw_classes, [None] * 3


def neighbour_cases() -> Iterator[tuple]:
    """Precision, recall, density and coverage of white normals that are narrower than the data, or aside."""
    for dimension, count, scale, shift in ((4, 400, 0.8, 0.2), (16, 400, 0.9, 0.0), (3, 1000, 0.7, 0.3)):
        reference = np.random.default_rng(4).standard_normal((count, dimension))

        def draw(rng, seed, dimension=dimension, count=count, scale=scale, shift=shift, reference=reference):
            x = rng.standard_normal((count, dimension)) * scale + shift
            how = {"replicates": REPLICATES, "seed": seed}
            return [*precision_recall(x, reference, **how), *density_coverage(x, reference, **how)]

        setting = f"{count:,} samples, {dimension} dimensions, scale {scale:g}, shift {shift:g}"
        yield ["precision", "recall", "density", "coverage"], setting, draw, [None] * 4


def other_cases() -> Iterator[tuple]:
    """Shares, and the Inception score of random logits."""
    for p in (0.5, 0.9, 0.99):

        def draw(rng, seed, p=p):
            return [share(rng.random(400) < p, REPLICATES, seed)]

        yield ["class accuracy"], f"400 samples, {p:g} of them right", draw, [p]

    def draw_score(rng, seed):
        return [inception_estimate(2 * rng.standard_normal((400, 10)), REPLICATES, seed, splits=1)]

    yield ["Inception score"], "400 samples, 10 classes, one split", draw_score, [None]


if __name__ == "__main__":
    main()
