"""The metrics by name: what each yields, what is better, and how many images it needs."""

from cardiff.errors import UserError, did_you_mean
from cardiff.evaluation.metrics.neighbours import density_coverage, precision_recall

# Name of a metric on the command line -> its estimates, and what is better: larger (True), smaller (False), or closer
# to a value.
METRICS: dict[str, dict[str, bool | float]] = {
    "fid": {"fid": False},
    "fid_infinity": {"fid_infinity": False},
    "kid": {"kid": False},
    "is": {"is": True},
    "prdc": {"precision": True, "recall": True, "density": True, "coverage": True},
    "accuracy": {"accuracy": True, "class_shift": False},
    "diversity": {"diversity": 1.0},
    "memorisation": {},
}
# The estimates of prdc: names, function, number of neighbours.
PRDC = ((("precision", "recall"), precision_recall, 3), (("density", "coverage"), density_coverage, 5))
# Images that a metric needs, of the reference and of samples; fid_infinity has a rule of its own for samples.
LEAST_REAL = {"fid": 2, "fid_infinity": 2, "kid": 2, "prdc": 1 + max(neighbours for *_, neighbours in PRDC)}
LEAST = {"fid": 2, "kid": 2, "is": 20, "prdc": 20, "accuracy": 1, "diversity": 2, "memorisation": 1}


def loss(value: float, aim: bool | float) -> float:
    """A figure as a loss: smaller is better.

    Args:
        value: The figure.
        aim: What is better, as in METRICS.
    """
    if aim is True:
        return -value
    return value if aim is False else abs(value - aim)


def chosen_metrics(text: str) -> list[str]:
    """Metrics of an option such as fid,kid.

    Raises:
        UserError: A name is not a metric.
    """
    if text == "all":
        return list(METRICS)
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS, f"choose from {', '.join(METRICS)}.")
            raise UserError(f"--metrics names {name!r}, which is not a metric; {hint}")
    return [name for name in METRICS if name in chosen]
