"""Which schedules the laboratory compares, by the names they have in its tables."""

import difflib
import inspect
from pathlib import Path

import numpy as np
import yaml

from cardiff.config.run import make_schedule
from cardiff.errors import UserError
from schedulers import SCHEDULES

PUBLISHED = {
    "linear": {"name": "linear"},
    "quadratic": {"name": "quadratic"},
    "constant": {"name": "constant"},
    "exponential": {"name": "exponential"},
    "JSD": {"name": "jsd"},
    "cosine": {"name": "cosine"},
    "cosine τ=0.5": {"name": "generalised_cosine", "tau": 0.5},
    "cosine τ=2": {"name": "generalised_cosine", "tau": 2.0},
    "sigmoid τ=0.5": {"name": "sigmoid", "tau": 0.5},
    "sigmoid τ=1": {"name": "sigmoid", "tau": 1.0},
    "GeoDiff sigmoid": {"name": "geodiff_sigmoid"},
    "Laplace": {"name": "laplace"},
    "Cauchy": {"name": "cauchy"},
    "cosine λ": {"name": "cosine_log_snr"},
    "linear λ": {"name": "linear_log_snr"},
    "EDM ρ=7": {"name": "edm"},
    "EDM lognormal": {"name": "edm_lognormal"},
    "linear, zero SNR": {"name": "linear", "rescale_betas_zero_snr": True},
    "cosine, input ½": {"name": "cosine", "input_scale": 0.5},
}
"""Schedules that others have published, with their own parameters."""
OURS = {
    "octave geodesic": {"name": "octave"},
    "octave Pareto κ=0.9": {"name": "octave", "kappa": 0.9},
    "spectral": {"name": "spectral"},
    "spectral κ=4": {"name": "spectral", "kappa": 4.0},
    "spectral, pixels": {"name": "spectral", "pixel_weight": 1.0},
}
"""Our schedules; the laboratory adds the measured spectrum to their arguments, and the solver that it ranks by."""


def choose_schedules(text: str, spectrum: dict) -> dict[str, dict]:
    """The `scheduler` sections that an option like all or cosine,linear,mine.yaml asks for, by their names in tables.

    Args:
        text: "all", or what `section_of` takes, with commas.
        spectrum: Arguments that fit a schedule to the data set, for the schedules that take them and bring none.

    Raises:
        UserError: A name that is no schedule.
    """
    names = [*PUBLISHED, *OURS] if text == "all" else _names_in(text)
    called = {Path(name).stem if name.endswith((".yaml", ".yml")) else name: name for name in names}
    return {short: with_spectrum(section_of(name), spectrum) for short, name in called.items()}


def _names_in(text: str) -> list[str]:
    """The names of a list with commas, some of which have a comma themselves."""
    names, parts = [], [part.strip() for part in text.split(",")]
    while parts:
        two = ", ".join(parts[:2])
        names.append(two if two in PUBLISHED | OURS else parts[0])
        del parts[: 2 if names[-1] == two else 1]
    return names


def section_of(name: str) -> dict:
    """The `scheduler` section of a name in the tables above, a registered schedule, a YAML file or FILE.py:FUNCTION.

    Raises:
        UserError: It is none of these.
    """
    known = PUBLISHED | OURS
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        return _section_in(Path(name))
    if name in SCHEDULES or ".py:" in name:
        return {"name": name}
    near = difflib.get_close_matches(name, [*known, *SCHEDULES], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}."
    raise UserError(f"{name!r} is neither a schedule nor a file with one; {hint}")


def with_spectrum(section: dict, spectrum: dict) -> dict:
    """The section with the data set's spectrum, if its schedule takes one and the section brings none."""
    schedule = SCHEDULES.get(section["name"])
    takes = {} if schedule is None else inspect.signature(schedule.alphas_bar).parameters
    if "octave_powers" in section or "octave_powers" not in takes:
        return dict(section)
    return {**{key: value for key, value in spectrum.items() if key in takes}, **section}


def alphas_cumprod_of(section: dict) -> np.ndarray:
    """ᾱ of a `scheduler` section in float64; (T,)."""
    # Zero terminal SNR needs a model that predicts something else than the noise; ᾱ does not depend on it.
    scheduler = make_schedule({**section, "prediction_type": "v_prediction"})
    return np.cumprod(1 - np.asarray(scheduler.config.trained_betas, dtype=np.float64))


def _section_in(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"The schedule {path} cannot be read: {' '.join(str(error).split())}") from error
    section = content.get("scheduler") if isinstance(content, dict) else None
    if not isinstance(section, dict) or "name" not in section:
        raise UserError(f"{path} has no section scheduler with a name.")
    return section
