"""What makes the null class of a conditional model a worse unconditional model than its twin?

    OMP_NUM_THREADS=1 python benchmarks/null_class.py digits --output docs/cars
    OMP_NUM_THREADS=1 python benchmarks/null_class.py cars --output docs/cars

digits: models trained from scratch with a tenth and with half of the labels dropped. cars: the model that ships,
trained on for 500 steps with a tenth and with half dropped. Each is measured without and with a
label, next to the twin without labels. Every row is a report in --reports; what is there is not done again. The
weights of MobileNetV2 are needed for the cars: docs/evaluation.md.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_classifier
import train_conditional
import train_unconditional
from benchmarks.cars import MODELS, ROOT, measure_all, parse
from demo import train_on

MORE_STEPS, MORE_RATE = 500, 1e-3
DROPPED = (0.1, 0.5)
STEPS = 10
"""Of DPM-Solver++, for every row."""


def cars(folder: Path) -> dict[str, dict[str, Any]]:
    """The model that ships, and trained on with few and with many dropped labels."""
    models = {"as it ships": MODELS / "cars_32"}
    for dropped in DROPPED:
        run = folder / f"cars_32_dropout_{dropped}"
        models[f"{MORE_STEPS} more steps, {dropped:.0%} dropped"] = run
        train_on(MODELS / "cars_32", run, MORE_STEPS, MORE_RATE, "--train.label_dropout", str(dropped))
    rows = {f"{name}, {what}": row for name, model in models.items() for what, row in both(model).items()}
    return {**rows, "twin, as it ships": {"model": str(MODELS / "cars_32_unconditional")}}


def digits(folder: Path) -> dict[str, dict[str, Any]]:
    """Models of the digits with few and with many dropped labels, and their twin."""
    classifier = folder / "digits_classifier"
    config = ROOT / "configs/digits_16_classifier.yaml"
    train_classifier.main(["--config", str(config), "--output_dir", str(classifier), "--train.trackers", "[]"])
    protocol = {"network": str(classifier), "accuracy_classifier": str(classifier)}
    rows: dict[str, dict[str, Any]] = {}
    for dropped in DROPPED:
        run = folder / f"digits_dropout_{dropped}"
        options = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), "--output_dir", str(run)]
        train_conditional.main([*options, "--train.trackers", "[]", "--train.label_dropout", str(dropped)])
        rows |= {f"{dropped:.0%} dropped, {what}": row for what, row in both(run).items()}
    run = folder / "digits_twin"
    options = ["--config", str(ROOT / "configs/digits_16_unconditional.yaml"), "--output_dir", str(run)]
    train_unconditional.main([*options, "--train.trackers", "[]"])
    rows["twin"] = {"model": str(run)}
    return {name: {"reference": None, **protocol, **row} for name, row in rows.items()}


def both(model: Path) -> dict[str, dict[str, Any]]:
    """A model without and with labels."""
    scales = {"null class": 0.0, "label": 1.0}
    return {name: {"model": str(model), "guidance_scale": [scale]} for name, scale in scales.items()}


SETS = {"digits": digits, "cars": cars}


def main() -> None:
    options = parse(__doc__, SETS, Path("runs/null_class"), Path("runs/null_class/reports"))
    rows = {name: {"steps": STEPS, **row} for name, row in SETS[options.part](options.runs).items()}
    measure_all(rows, options, f"null_class_{options.part}")


if __name__ == "__main__":
    main()
