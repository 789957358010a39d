"""What a visitor has chosen, as the options of sample.py and as the command line that makes the same picture."""

import shlex
from dataclasses import dataclass, fields

from cardiff.config.schedules_by_name import OURS, PUBLISHED
from cardiff.config.types import Floats
from cardiff.errors import UserError
from cardiff.layout import IS_CHECKOUT
from cardiff.sampling.options import SampleOptions

PROGRAM = "python sample.py" if IS_CHECKOUT else "cardiff sample"
NONE, PLAIN, INTERVAL, RESCALED, THRESHOLD = "none", "classifier-free", "in an interval", "rescaled", "thresholded"
CFG_PLUS_PLUS, AUTO, CLASSIFIER = "CFG++", "autoguidance", "classifier"
KINDS = (NONE, PLAIN, INTERVAL, RESCALED, THRESHOLD, CFG_PLUS_PLUS, AUTO, CLASSIFIER)
"""Kinds of guidance."""
OWN_STEPS = "the model's own"


@dataclass(frozen=True)
class Settings:
    """The values of the controls."""

    model: str
    labels: tuple[str, ...] = ()
    """Names of classes; none for all, or for a model without classes."""
    mixture: str = ""
    """Another label, in the syntax of --labels."""
    columns: int = 4
    """Images of each class; or, of a model without classes, of the picture."""
    seed: int = 0
    kind: str = NONE
    guidance_scale: float = 1.0
    low: float = -1.0
    """Log-SNRs between which guidance is on."""
    high: float = 2.0
    rescale: float = 0.7
    quantile: float = 0.995
    worse: str | None = None
    """The model of autoguidance."""
    classifier_scale: float = 1.0
    solver: str = "dpm"
    steps: int = 25
    steps_of: str = OWN_STEPS
    """Schedule whose noise levels are visited."""


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for."""

    models: dict[str, tuple[str, ...]]
    """Models that can be opened, and the names of their classes."""
    classifier: str | None
    max_images: int
    max_steps: int


def options_of(settings: Settings, limits: Limits, grid: str) -> SampleOptions:
    """The options of sample.py.

    Args:
        settings: From the visitor, so that nothing of them is trusted.
        limits: What is allowed.
        grid: Where the picture goes.

    Raises:
        UserError: Something is not allowed.
    """
    if settings.model not in limits.models:
        raise UserError(f"There is no model {settings.model!r} here: choose from {', '.join(limits.models)}.")
    labels = labels_text(settings, limits.models[settings.model])
    mixtures = 1 if settings.mixture.strip() else 0
    rows = mixtures + len(settings.labels) if mixtures or settings.labels else len(limits.models[settings.model])
    count = max(rows, 1) * settings.columns
    if not 1 <= count <= limits.max_images:
        raise UserError(
            f"{count} images were asked for, and 1 to {limits.max_images} can be drawn here: choose fewer classes or "
            "fewer images of each."
        )
    if not 1 <= settings.steps <= limits.max_steps:
        raise UserError(f"{settings.steps} steps were asked for, and 1 to {limits.max_steps} can be taken here.")
    options = SampleOptions(
        model=settings.model,
        grid=grid,
        labels=labels,
        num_images=count,
        seed=settings.seed,
        solver=settings.solver,
        steps=settings.steps,
    )
    if settings.steps_of != OWN_STEPS:
        options.timesteps_from = _schedule(settings.steps_of)
    _guide(options, settings, limits)
    return options


def _guide(options: SampleOptions, settings: Settings, limits: Limits) -> None:
    """Set the guidance of options."""
    kind = settings.kind
    if kind not in KINDS:
        raise UserError(f"There is no guidance {kind!r}: choose from {', '.join(KINDS)}.")
    if kind == CLASSIFIER:
        if limits.classifier is None:
            raise UserError("Guidance by a classifier needs one: start the app with --classifier FOLDER.")
        options.classifier, options.classifier_scale = limits.classifier, Floats([settings.classifier_scale])
        return
    if kind == NONE:
        return
    options.guidance_scale = Floats([settings.guidance_scale])
    if kind == INTERVAL:
        options.guidance_interval = [settings.low, settings.high]
    elif kind == RESCALED:
        options.guidance_rescale = settings.rescale
    elif kind == THRESHOLD:
        options.dynamic_thresholding = settings.quantile
    elif kind == CFG_PLUS_PLUS:
        options.cfg_plus_plus = True
    elif kind == AUTO:
        if settings.worse not in limits.models:
            raise UserError("Autoguidance needs a second model: choose one from the list.")
        options.guidance_model = settings.worse


def _schedule(name: str) -> str:
    """The name of a published schedule; a visitor can name no file."""
    if name not in PUBLISHED | OURS:
        raise UserError(f"There is no schedule {name!r}: choose from {', '.join(PUBLISHED | OURS)}.")
    return name


def labels_text(settings: Settings, names: tuple[str, ...]) -> str | None:
    """The labels in the syntax of --labels; None for all classes, and for a model without classes.

    Raises:
        UserError: A name is not that of a class, or the mixture names a file.
    """
    unknown = [name for name in settings.labels if name not in names]
    if unknown:
        raise UserError(f"There is no class {unknown[0]!r} in this model: choose from its list.")
    all_of_them = settings.labels == names and not settings.mixture.strip()
    parts = [] if all_of_them else [quoted(name) for name in settings.labels]
    mixture = settings.mixture.strip()
    if mixture.startswith("@"):
        raise UserError(f"The mixture is {mixture!r}, but must name classes, such as 0.5*three+0.5*eight.")
    if mixture:
        parts.append(mixture)
    return ",".join(parts) or None


def quoted(name: str) -> str:
    """The name of a class in the syntax of --labels, in quotes if it has other characters than letters and digits."""
    plain = all(c.isalnum() or c in " -_'." for c in name) and not name.isdigit() and name == name.strip()
    return name if plain else '"' + name.replace('"', '""') + '"'


def command_line(options: SampleOptions) -> str:
    """The command that makes what these options make."""
    order = ["model", "labels", "num_images", "seed", "guidance_scale"]
    declared = {field.name: field for field in fields(options)}
    parts = []
    for name in [*order, *(name for name in declared if name not in order)]:
        value, field = getattr(options, name), declared[name]
        default = field.default_factory() if callable(field.default_factory) else field.default
        if name == "model" or value != default:
            parts.append(f"--{name} {shlex.quote(_argument(value))}")
    return f"{PROGRAM} {' '.join(parts)}"


def _argument(value: object) -> str:
    """A value as text for the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        numbers = ",".join(_argument(item) for item in value)
        return f"[{numbers}]" if len(value) > 1 else numbers
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
