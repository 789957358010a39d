"""average.py: models whose weights are averages of a width that is chosen after training."""

from collections.abc import Callable
from pathlib import Path

import torch

from cardiff.errors import UserError
from cardiff.files import written_aside
from cardiff.hub.options import AverageOptions
from cardiff.hub.provenance import read_record, write_record
from cardiff.integrity import write_checksums
from cardiff.training.power_average import combination
from cardiff.training.snapshots import FOLDER, read_snapshots, tensors_of

MOST_MISSED = 0.2
"""An average whose profile is missed by more is refused: a tenth of its weights is of other steps."""


def run(options: AverageOptions, say: Callable[[str], object] = print) -> list[Path]:
    """Make the averages that the options ask for, and return their folders.

    Raises:
        UserError: The run has no snapshots, or they do not give this width.
    """
    model = Path(options.model)
    if not model.is_dir():
        raise UserError(f"--model {model} is not a folder: name the output folder of a run, which has the snapshots.")
    output = model / FOLDER if options.output is None else Path(options.output)
    folders = []
    for width in options.width:
        folder, missed = make_average(model, width, output / name_of(width))
        say(f"{folder}: width {width:g}; {missed / 2:.1%} of the average is of other steps than it should be.")
        folders.append(folder)
    return folders


def name_of(width: float) -> str:
    """The name of the folder of an average."""
    return f"width-{width:g}"


def average_of(run: Path, width: str) -> Path:
    """The model of RUN@WIDTH, made if it is not there.

    Raises:
        UserError: The width is none, or cannot be made.
    """
    try:
        number = float(width)
    except ValueError:
        raise UserError(f"{run}@{width} must end in the width of an average, such as {run}@0.10.") from None
    return make_average(run, number, run / FOLDER / name_of(number))[0]


def make_average(run: Path, width: float, folder: Path) -> tuple[Path, float]:
    """Write the model of a run with averages of this width, after the last snapshot.

    Args:
        run: Output folder of the run.
        width: Standard deviation of the average's profile over the length of the run.
        folder: Where it is written; made anew unless it is of this snapshot already.

    Returns:
        The folder, and how far the profile is from that of the width: see `combination`.

    Raises:
        UserError: The run has no snapshots, or none near enough to this width.
    """
    from cardiff.hub.serialization import export_model  # which takes RUN@WIDTH from here

    record = read_record(run)
    if record is None:
        raise UserError(f"{run} is not the output folder of a run: name one.")
    # What is beyond the model's step was written just before the run was killed, or by another one.
    snapshots = [(file, each, step) for file, each, step in read_snapshots(run) if step <= record["step"]]
    if not snapshots:
        raise UserError(f"{run} has no snapshot of averages up to step {record['step']}, of which its model is.")
    last = max(step for _, _, step in snapshots)
    try:
        factors, missed = combination([(each, step) for _, each, step in snapshots], width, last)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    if missed > MOST_MISSED:
        kept = ", ".join(f"{each:g}" for each in sorted({each for _, each, _ in snapshots}))
        raise UserError(
            f"An average of width {width:g} cannot be made from {len(snapshots)} snapshots of the widths {kept}: "
            f"{missed / 2:.0%} of it would be of other steps. Ask for a width nearer to those, or train with more "
            "train.ema_snapshots."
        )
    average = {"width": width, "step": last, "missed": missed}
    old = read_record(folder) if folder.is_dir() else None
    if old is not None and old.get("average") == average:
        return folder, missed

    def fill(network: torch.nn.Module) -> None:
        sums: dict[str, torch.Tensor] = {}
        for factor, (file, each, _) in zip(factors.tolist(), snapshots):
            for name, tensor in tensors_of(file, each):
                sums[name] = sums[name].add_(tensor, alpha=factor) if name in sums else factor * tensor
        own = dict(network.named_parameters())
        if own.keys() != sums.keys() or any(own[name].shape != sums[name].shape for name in own):
            raise UserError(f"{run}: the snapshots in {FOLDER} are of another network than the model: remove them.")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(sums[name])

    with written_aside(folder) as aside:
        export_model(run, aside, change=fill)
        write_record(aside, {**record, "step": last, "average": average})
        write_checksums(aside)
    return folder, missed
