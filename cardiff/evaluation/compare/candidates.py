"""What is compared: runs by name, their sampling settings, and the measurements of each."""

import hashlib
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from cardiff.evaluation.estimator import ClassRow
from cardiff.evaluation.metrics.intervals import Estimate
from cardiff.evaluation.metrics.registry import loss
from cardiff.evaluation.samples import ModelFacts
from cardiff.markup import escape


@dataclass(frozen=True)
class Setting:
    """How a model is sampled."""

    solver: str
    steps: int
    guidance_scale: float | None
    """None for a model without labels."""

    def __str__(self) -> str:
        guided = "" if self.guidance_scale is None else f"w = {shortest(self.guidance_scale)}, "
        return f"{guided}{self.solver}, {self.steps} steps"

    @property
    def cost(self) -> float:
        """Network evaluations an image, for the progress bar; the manifest counts them."""
        return self.steps * (1 if self.guidance_scale in (None, 0.0, 1.0) else 2)

    @property
    def folder(self) -> str:
        scale = "" if self.guidance_scale is None else f"-w{shortest(self.guidance_scale)}"
        return f"{self.solver}-{self.steps}{scale}"


@dataclass
class Candidate:
    """Runs of one name, with the measurements of their settings."""

    name: str
    models: list[ModelFacts]
    settings: list[Setting]
    trials: dict[Setting, list["Trial"]] = field(default_factory=dict)
    """The latest measurement of each setting, one for each run and sampling seed."""
    first: dict[Setting, list["Trial"]] = field(default_factory=dict)
    """The measurement of all settings at the same number of images."""

    @property
    def conditional(self) -> bool:
        return bool(self.models[0].classes)

    @property
    def called(self) -> str:
        """The name in Markdown."""
        return escape(self.name)

    def loss(self, setting: Setting, metric: str, aim: bool | float) -> float:
        """A metric averaged over runs and sampling seeds, as a loss; infinite where it could not be measured."""
        trials = self.trials[setting]
        if any(metric not in trial.estimates for trial in trials):
            return math.inf
        return loss(float(np.mean([trial.estimates[metric].value for trial in trials])), aim)


@dataclass
class Trial:
    """One run, setting and sampling seed, measured."""

    count: int
    estimates: dict[str, Estimate]
    evaluations: dict[str, float] | None
    per_class: list[ClassRow]
    terms: tuple[float, float] | None
    balanced: float | None
    memorisation: dict | None
    folder: Path

    @property
    def network_evaluations(self) -> float:
        """Evaluations of all networks together, for one image."""
        return sum((self.evaluations or {}).values())

    def to_dict(self) -> dict:
        estimates = {name: e.to_dict(with_deviations=True) for name, e in self.estimates.items()}
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "estimates": estimates, "folder": None}

    @classmethod
    def from_dict(cls, known: dict, folder: Path) -> "Trial":
        estimates = {name: Estimate.from_dict(e) for name, e in known["estimates"].items()}
        return cls(**{**known, "estimates": estimates, "folder": folder})


def base_setting(candidate: Candidate) -> Setting:
    """The setting that all runs share: the first solver and number of steps, and no guidance beyond the label."""
    first = candidate.settings[0]
    same = [s for s in candidate.settings if (s.solver, s.steps) == (first.solver, first.steps)]
    return next((s for s in same if s.guidance_scale in (None, 1.0)), first)


def best_setting(candidate: Candidate, metric: str, aim: bool | float, count: int) -> Setting:
    """The best of the settings that were measured at `count` images."""
    full = [setting for setting, trials in candidate.trials.items() if trials[0].count == count]
    return min(full, key=lambda setting: candidate.loss(setting, metric, aim))


def shortest(scale: float) -> str:
    """A number in as few digits as identify it."""
    return f"{scale:g}" if float(f"{scale:g}") == scale else repr(scale)


def file_name(name: str) -> str:
    """A run's name as a folder name: unchanged, or made safe for any file system and unique by a digest."""
    safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", name).strip(" .")
    while len(safe.encode()) > 100:
        safe = safe[:-1]
    return name if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
