"""Part c: images per second of sampling, by precision, compilation, batch and solver."""

from benchmarks.gpu.options import ROOT
from benchmarks.gpu.world import Entry, World

SCRIPT = ROOT / "benchmarks/sampling.py"


def entries(world: World) -> list[Entry]:
    """What a user would choose first, then each option against it."""
    return []
