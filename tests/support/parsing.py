"""The shipped configurations, and a command line of a training script."""

from pathlib import Path

from cardiff.config.run import Kind, RunConfig, parse_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
DIGITS = next(path for path in CONFIGS if path.stem == "digits_16_conditional")
CIFAR = next(path for path in CONFIGS if path.stem == "cifar10_32_conditional")


def parse(*argv: str, kind: Kind = "conditional") -> RunConfig:
    """The run of a command line with the output folder `out`."""
    return parse_run(["--output_dir", "out", *argv], kind=kind, description="test")
