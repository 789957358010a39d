"""The options of benchmarks/gpu.sh; importing them needs no torch."""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = {
    "a": ("what probably breaks first", 8.0),
    "b": ("images per second of the training step", 7.0),
    "c": ("images per second of sampling", 4.0),
    "d": ("a model of CIFAR-10", 7.0),
    "e": ("a model at 64x64", 4.0),
}
"""Title of each part, and the minutes of a call by default: half an hour in all."""


@dataclass
class Options:
    """What to do, and where."""

    output: Path
    """Folder of the JSON files and pictures."""
    work: Path
    """Folder of generated images, checkpoints and samples."""
    parts: list[str]
    minutes: float | None = None
    """Minutes of each part; None for those of PARTS."""
    dry_run: bool = False
    """On the CPU, with tiny networks."""
    again: bool = False
    """Do again what is done."""
    only: list[str] = field(default_factory=list)
    """Patterns of the entries to do; all if there are none."""
    data: list[Path] = field(default_factory=list)
    """Folders in which to look for data sets."""
    weights: str | None = None
    """File of the FID's Inception network."""
    command: str = ""
    """As it was given, for the record."""
    call: str = ""
    """Tells this call from others, so that what failed in it is not tried a second time."""

    def seconds(self, part: str) -> float:
        """The time in which a part may start entries."""
        return 60 * (PARTS[part][1] if self.minutes is None else self.minutes)

    def to_json(self) -> str:
        """For the worker's command line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """What `to_json` wrote."""
        options = cls(**json.loads(text))
        options.output, options.work = Path(options.output), Path(options.work)
        options.data = [Path(folder) for folder in options.data]
        return options


def parse(argv: list[str]) -> Options:
    """The options of a command line; exits with a sentence if they are not valid."""
    parser = argparse.ArgumentParser("benchmarks/gpu.sh", allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_work"))
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--weights")
    given = parser.parse_args(argv)
    if given.minutes is not None and not 0 < given.minutes < 1000:
        parser.error(f"--minutes is {given.minutes:g}: give a number above 0.")
    for folder in given.data:
        if not folder.is_dir():
            parser.error(f"--data {folder} is not a folder: give one that contains data sets.")
    if given.weights is not None and not Path(given.weights).is_file():
        parser.error(f"--weights {given.weights} does not exist: give the file of the Inception network.")
    given.data += [ROOT / "data/local", ROOT / "shared/data"]
    return Options(
        output=given.output.absolute(),
        work=given.work.absolute(),
        parts=[part for part in PARTS if part in (given.part or PARTS)],
        minutes=given.minutes,
        dry_run=given.dry_run,
        again=given.again,
        only=given.only,
        data=[folder.absolute() for folder in given.data],
        weights=given.weights and str(Path(given.weights).absolute()),
    )
