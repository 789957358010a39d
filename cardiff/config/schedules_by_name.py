"""Schedules by the names used in tables and by `--timesteps_from`, and their ᾱ."""

from pathlib import Path

import numpy as np

from cardiff.config.code import refuse_hidden_code
from cardiff.config.schedule import make_schedule
from cardiff.config.yaml_file import read_yaml
from cardiff.errors import UserError, did_you_mean
from cardiff.schedulers import SCHEDULES

PUBLISHED: dict[str, dict] = {
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
"""Schedules from the literature, with their published parameters."""
OURS: dict[str, dict] = {
    "octave geodesic": {"name": "octave"},
    "octave Pareto κ=0.9": {"name": "octave", "kappa": 0.9},
    "spectral": {"name": "spectral"},
    "spectral κ=4": {"name": "spectral", "kappa": 4.0},
    "spectral, pixels": {"name": "spectral", "pixel_weight": 1.0},
}
"""Our schedules; cardiff.analysis adds the measured spectrum and the solver it ranks by to their arguments."""


def section_of(name: str, allow_code: bool = False) -> dict:
    """The `scheduler` section for a name in the tables above, a registered schedule, a YAML file or FILE.py:FUNCTION.

    Args:
        name: Name of the schedule, or file.
        allow_code: Whether a YAML file may name a FILE.py:FUNCTION.

    Raises:
        UserError: The name is none of these.
    """
    known = PUBLISHED | OURS
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        section = _section_in(Path(name))
        if not allow_code:
            refuse_hidden_code(section, name, argv=[])
        return section
    if name in SCHEDULES or ".py:" in name:
        return {"name": name}
    hint = did_you_mean(name, [*known, *SCHEDULES], f"choose from {', '.join(known)}.")
    raise UserError(f"{name!r} is neither a schedule nor a file that contains one; {hint}")


def alphas_cumprod_of(section: dict) -> np.ndarray:
    """ᾱ of a `scheduler` section in float64; (T,)."""
    # Zero terminal SNR is refused for models that predict the noise; ᾱ does not depend on the prediction type.
    scheduler = make_schedule({**section, "prediction_type": "v_prediction"})
    return np.cumprod(1 - np.asarray(scheduler.config.trained_betas, dtype=np.float64))


def _section_in(path: Path) -> dict:
    content = read_yaml(path)
    section = content.get("scheduler") if isinstance(content, dict) else None
    if not isinstance(section, dict) or "name" not in section:
        raise UserError(f"{path} has no section `scheduler` with a `name`: see configs/ for examples.")
    return section
