"""What a checkpoint remembers besides tensors, and which changes of the configuration a resumed run refuses."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cardiff.config import SECTIONS, RunConfig

# Without these a run is another one; elsewhere a change is the user's right and is only reported.
FIXED = ("unet.", "classifier.", "scheduler.", "data.resolution", "data.channels", "train.held_out")
# These change nothing that is trained.
SILENT = ("data.cache_dir", "data.num_workers", "train.max_steps", "train.epochs", "train.log_every", "train.trackers")
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

    def save(self, folder: Path) -> None:
        """Write state.json into an existing folder."""
        Path(folder, "state.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "TrainingState":
        """Read state.json."""
        return cls(**json.loads(Path(folder, "state.json").read_text()))


def refuse_changes(state: TrainingState, config: RunConfig, class_names: list) -> list[str]:
    """Compare a checkpoint with the configuration that would resume it; return notices about allowed changes.

    Raises:
        ValueError: The model, the schedule, the classes or the held-out images are not those of the checkpoint.
    """
    if config.network_name not in state.config:
        trained = next(name for name, *_ in SECTIONS.values() if name in state.config)
        raise ValueError(
            f"{config.output_dir} holds the run of a {trained} and not of a {config.network_name}: "
            "choose another --output_dir."
        )
    fixed = FIXED
    if getattr(config.train, "held_out", 0):
        fixed += ("train.seed",)  # by which the images were chosen that it must never see
    before, now = _flat(state.config), _flat(config.to_dict())
    before["conditional"], now["conditional"] = state.conditional, config.labelled
    before["class names"], now["class names"] = state.class_names, class_names
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    refused = [key for key in changed if key in ("conditional", "class names") or key.startswith(fixed)]
    if refused:
        shown = "; ".join(f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}" for key in refused)
        raise ValueError(
            f"{config.output_dir} holds a run of another model ({shown}): "
            "give back the old values, or choose another --output_dir."
        )
    noticed = [key for key in changed if not key.startswith(SILENT)]
    return [
        f"Resuming with {key} changed from {_short(before.get(key))} to {_short(now.get(key))}." for key in noticed
    ]


def _flat(config: dict) -> dict:
    return {f"{section}.{key}": value for section, fields in config.items() for key, value in fields.items()}


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
