"""Levels of few steps that are computed from a spectrum, compared on paper: ours and those of arXiv 2502.00180.

    python benchmarks/step_designs.py --output docs/forward_process/designs.md

Of the embedded digits and cars; a minute, nothing is random.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.errors import sampling_error
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import Optimum
from cardiff.analysis.spectra import fit_gaussian
from cardiff.analysis.spectral_design import designed_levels, distance_of
from cardiff.config.files import data_section
from cardiff.data import open_store
from cardiff.diffusion.levels import log_snr_of, visited_levels
from cardiff.files import write_text
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum

ROOT = Path(__file__).parent.parent
SETS = {"digits 16×16": "digits_16_conditional", "cars 32×32": "cars_32_conditional"}
STEPS = (5, 10, 20)
Levels = Callable[[Spectrum, str, int], np.ndarray]


def _optimum(spectrum: Spectrum, solver: str, steps: int) -> np.ndarray:
    start = log_snr_of(SCHEDULES["cosine"].alphas_bar(1000))
    return visited_levels(Optimum(spectrum, solver, steps).best(0.0, 1.0, start), steps)


DESIGNS: dict[str, Levels] = {
    "cosine, evenly in t": lambda s, solver, n: visited_levels(log_snr_of(SCHEDULES["cosine"].alphas_bar(1000)), n),
    "our optimum in pixels": _optimum,
    "W2, last level given": lambda s, solver, n: designed_levels(s, solver, n, "w2"),
    "W2, last level free": lambda s, solver, n: designed_levels(s, solver, n, "w2", last=None),
    "KL, last level given": lambda s, solver, n: designed_levels(s, solver, n, "kl"),
}


def spectrum_of(config: str) -> Spectrum:
    """The spectrum of a shipped configuration's data, as the optimum takes it."""
    store = open_store(data_section(ROOT / f"configs/{config}.yaml"), conditional=False)
    return merged(fit_gaussian(np.asarray(store.images)).spectrum, 0.1)


def cells(spectrum: Spectrum, solver: str, design: str, steps: int) -> tuple[str, str, str]:
    """Error in pixels, KL in nats and the last log-SNR, as the table shows them."""
    levels = DESIGNS[design](spectrum, solver, steps)
    pixels = sampling_error(spectrum, levels, solver).pixels
    nats = float(distance_of(spectrum, torch.from_numpy(levels), solver, "kl"))
    return f"{pixels:.4f}", f"{nats:.0f}", f"{levels[-1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/designs.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for name, config in SETS.items():
        spectrum = spectrum_of(config)
        lines += [f"**{name}**, error in pixels · KL in nats · last log-SNR", ""]
        lines.append(
            f"| levels | {' | '.join(f'{solver.upper()} {n}' for solver in ('ddim', 'ddpm') for n in STEPS)} |"
        )
        lines.append("|---" * (1 + 2 * len(STEPS)) + "|")
        for design in DESIGNS:
            row = [" · ".join(cells(spectrum, solver, design, n)) for solver in ("ddim", "ddpm") for n in STEPS]
            lines.append(f"| {design} | {' | '.join(row)} |")
        lines.append("")
    write_text(options.output, "\n".join(lines))


if __name__ == "__main__":
    main()
