"""What a checkpoint remembers besides tensors, and which changes of the configuration a resumed run refuses."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cardiff.config.run import SECTIONS, Kind, RunConfig
from cardiff.config.sections import DataConfig
from cardiff.errors import UserError
from cardiff.hub.provenance import without_paths

# Without these a run is another one; elsewhere a change is the user's right and is only reported.
FIXED = ("unet.", "classifier.", "scheduler.", "data.resolution", "data.channels", "train.validation_fraction")
# These change nothing that is trained.
SILENT = ("data.num_workers", "data.license", "train.max_steps", "train.epochs", "train.log_every", "train.trackers")
SILENT += ("train.checkpoint_every", "train.keep_checkpoints", "train.sample_", "train.report_every")
SILENT += ("train.evaluate_", "train.mixed_precision")


@dataclass
class TrainingState:
    """The JSON part of a checkpoint."""

    step: int
    ema_step: int
    stream: dict | None
    scaler: dict | None
    class_names: list
    conditional: bool
    config: dict
    """Without the paths of a machine, since checkpoints travel."""
    seconds: float | None = None
    """Spent on the run so far; None of older checkpoints."""
    data: dict | None = None
    """Digests of the images and of those held out, as of `identify`; None of older checkpoints."""

    def save(self, folder: Path) -> None:
        """Write state.json into an existing folder."""
        Path(folder, "state.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "TrainingState":
        """Read state.json.

        Raises:
            UserError: It is missing, damaged, or of another project.
        """
        file = Path(folder, "state.json")
        try:
            state = cls(**json.loads(file.read_text()))
            _flat(state.config), int(state.step), list(state.class_names), dict(state.data or {})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not the state of a training run of this project ({error!r}).") from error
        return state


def refuse_changes(
    state: TrainingState, config: RunConfig, class_names: list, data: dict | None = None, source: str | None = None
) -> list[str]:
    """Compare a checkpoint with the run that would go on from it; return notices about allowed changes.

    Args:
        state: Of the checkpoint.
        config: Of the run.
        class_names: Of the run's data.
        data: Digests of the run's data, as of `identify`.
        source: Where the checkpoint comes from, if it is not from the run's own folder.

    Raises:
        UserError: The model, the schedule, the classes or the held-out images are not those of the checkpoint.
    """
    where = source or config.output_dir
    remedy = f"choose another --{'resume_from' if source else 'output_dir'}."
    if config.network_name not in state.config:
        trained = next((name for name, *_ in SECTIONS.values() if name in state.config), "model of another project")
        raise UserError(f"{where} holds the run of a {trained} and not of a {config.network_name}: {remedy}")
    fixed = FIXED
    if getattr(config.train, "validation_fraction", 0):
        fixed += ("train.seed",)  # by which the images were chosen that it must never see
    before, now = _flat(_complete(state.config, config.kind)), _flat(without_paths(config.to_dict()))
    before["conditional"], now["conditional"] = state.conditional, config.labelled
    before["class names"], now["class names"] = state.class_names, class_names
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    refused = [key for key in changed if key in ("conditional", "class names") or key.startswith(fixed)]
    if refused:
        shown = "; ".join(f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}" for key in refused)
        raise UserError(f"{where} holds a run of another model ({shown}): give back the old values, or {remedy}")
    noticed = [key for key in changed if not key.startswith(SILENT)]
    notices = [
        f"Resuming with {key} changed from {_short(before.get(key))} to {_short(now.get(key))}." for key in noticed
    ]
    other = [name for name, digest in (data or {}).items() if (state.data or {}).get(name, digest) != digest]
    if "held_out" in other:
        raise UserError(
            f"{where} holds a run that set other images aside than {config.data.path} gives now, so that it could be "
            "measured on images that it was trained on: give back the images and their options as they were, or "
            f"{remedy}"
        )
    if other:
        notices.append(f"Resuming with other images: {config.data.path} is not what the run was trained on so far.")
    return notices


def _complete(config: dict, kind: Kind) -> dict:
    """A checkpoint's configuration with the options that are newer than it at their defaults, without paths."""
    network, *classes = SECTIONS[kind]
    defaults = dict(zip((network, "train", "data"), (asdict(section()) for section in (*classes, DataConfig))))
    return without_paths({name: {**defaults.get(name, {}), **options} for name, options in config.items()})


def _flat(config: dict) -> dict:
    return {f"{section}.{key}": value for section, fields in config.items() for key, value in fields.items()}


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
