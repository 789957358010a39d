"""Resuming from a checkpoint: its JSON state, and which changes of the configuration are refused."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from cardiff.config.run import SECTIONS, Kind, RunConfig
from cardiff.config.sections import DataConfig
from cardiff.distributed import on_main
from cardiff.errors import UserError
from cardiff.files import remove_leftovers
from cardiff.hub.client import HubError, download_checkpoint
from cardiff.hub.provenance import without_paths
from cardiff.hub.serialization import export_model, load_network
from cardiff.integrity import find_damage, listed_files, read_json
from cardiff.training import checkpoint as checkpoints
from cardiff.training.sharding import as_sharded

if TYPE_CHECKING:
    from cardiff.training.trainer import Trainer

RENAMED = {"held_out": "validation_fraction", "schedule_free": "schedule_invariant"}
"""Names in the `train` section of older checkpoints, and what they are called now."""


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
    """Without local paths, since checkpoints are moved between machines."""
    seconds: float | None = None
    """Wall-clock time of the run so far; None in older checkpoints."""
    data: dict | None = None
    """Digests of all images and of the validation images, from `identify`; None in older checkpoints."""
    timesteps: dict | None = None
    """Of `TimestepDensity`, if the timesteps follow the losses."""
    base_model: dict | None = None
    """What the run started from; None for random weights."""

    def save(self, folder: Path) -> None:
        """Write state.json to an existing folder."""
        Path(folder, "state.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "TrainingState":
        """Read state.json.

        Raises:
            UserError: The file is missing, damaged, or not written by Cardiff.
        """
        file = Path(folder, "state.json")
        try:
            state = cls(**read_json(file))
            (
                _flat(state.config),
                int(state.step),
                list(state.class_names),
                dict(state.data or {}),
                dict(state.timesteps or {}),
                dict(state.base_model or {}),
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not the state of a Cardiff training run ({error!r}).") from error
        return state


def refuse_changes(
    state: TrainingState, config: RunConfig, class_names: list, data: dict | None = None, source: str | None = None
) -> list[str]:
    """Compare a checkpoint with the run that would resume from it; return notices about changes that are allowed.

    Args:
        state: State of the checkpoint.
        config: Configuration of the run.
        class_names: Class names of the run's data.
        data: Digests of the run's data, from `identify`.
        source: Where the checkpoint comes from, if not from the run's own folder.

    Raises:
        UserError: The model, the schedule, the classes or the validation images differ from the checkpoint's.
    """
    where = source or config.output_dir
    remedy = f"choose another --{'resume_from' if source else 'output_dir'}."
    if config.network_name not in state.config:
        found = next((f"a {name} run" for name, *_ in SECTIONS.values() if name in state.config), "an unknown run")
        raise UserError(f"{where} contains {found}, not a {config.network_name} run: {remedy}")
    before, now = _flat(_complete(state.config, config.kind)), _flat(without_paths(config.to_dict()))
    before["conditional"], now["conditional"] = state.conditional, config.labelled
    before["class names"], now["class names"] = state.class_names, class_names
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    refused = [key for key in changed if config.on_resume(key) == "refuse"]
    if refused:
        shown = "; ".join(f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}" for key in refused)
        raise UserError(f"{where} contains a run of another model ({shown}): restore the old values, or {remedy}")
    noticed = [key for key in changed if config.on_resume(key) == "report"]
    notices = [
        f"Resuming with {key} changed from {_short(before.get(key))} to {_short(now.get(key))}." for key in noticed
    ]
    other = [name for name, digest in (data or {}).items() if (state.data or {}).get(name, digest) != digest]
    if "held_out" in other:
        raise UserError(
            f"{where} contains a run with other validation images than {config.data.path} gives now, so the "
            "classifier could be evaluated on images that it was trained on: restore the images and their options, "
            f"or {remedy}"
        )
    if other:
        notices.append(f"Resuming with other images: the run was not trained on {config.data.path} so far.")
    return notices


def resume(trainer: "Trainer") -> None:
    """Resume from the newest intact checkpoint in the output folder, if there is one.

    Raises:
        UserError: The checkpoint belongs to another model, or cannot be loaded.
    """
    accelerator = trainer.accelerator
    path = on_main(lambda: _find(trainer))
    if path is None:
        return
    if not path.is_dir():
        raise UserError(f"{path} is not visible on every machine: put --output_dir on a shared disk.")
    state = TrainingState.load(path / "training")
    for notice in refuse_changes(state, trainer.config, trainer.data.class_names, trainer.data.digests):
        accelerator.print(notice)

    try:
        _load_tensors(trainer, path)
        density = trainer.draws.density
        if density is not None and state.timesteps is not None and state.timesteps["kind"] == density.kind:
            density.load(state.timesteps, accelerator.is_main_process)
    except (OSError, TypeError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not match its own model configuration ({reason}): remove it.") from error
    trainer.base_model = state.base_model
    trainer.ema.optimization_step, trainer.seconds = state.ema_step, state.seconds
    if state.scaler is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state.scaler)
    trainer.global_step, trainer.stream_state, trainer.last_checkpoint = state.step, state.stream, path
    on_main(lambda: _publish(trainer, path))
    accelerator.print(f"Resuming from {path}.")


def _find(trainer: "Trainer") -> Path | None:
    """The checkpoint to resume from, perhaps fetched from elsewhere first; None if there is none."""
    root = trainer.output_dir / "checkpoints"
    if trainer.config.resume_from is not None:
        try:
            _fetch(trainer, trainer.config.resume_from)
        except HubError as error:
            if not checkpoints.list_checkpoints(root):
                raise
            print(f"Warning: {error} Resuming from {root} instead.")
    if not root.is_dir():
        return None
    for folder in (trainer.output_dir, *filter(Path.is_dir, trainer.output_dir.iterdir())):
        remove_leftovers(folder)
    path = next(checkpoints.good_checkpoints(root, print), None)
    if path is None and checkpoints.list_checkpoints(root):
        print(f"{root} has no intact checkpoint: starting from scratch.")
    return path


def _publish(trainer: "Trainer", checkpoint: Path) -> None:
    """Copy the checkpoint's model to the root of the output folder, since the run may have been killed before that."""
    try:
        checkpoints.publish(checkpoint, trainer.output_dir)
    except OSError as error:
        raise UserError(f"{trainer.output_dir} cannot be written ({error}): free some disk space.") from error


def _fetch(trainer: "Trainer", source: str) -> None:
    """Copy the newest checkpoint of another folder or of the Hub into this run, unless the run has a newer one.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it belongs to another model.
    """
    root = trainer.output_dir / "checkpoints"
    checkpoint = checkpoints.newest_in(Path(source)) if Path(source).is_dir() else download_checkpoint(source)
    damage = find_damage(checkpoint)
    if damage is not None:
        raise UserError(f"--resume_from {source}: {checkpoint.name} is damaged ({damage}); copy or push it again.")
    state = TrainingState.load(checkpoint / "training")
    refuse_changes(state, trainer.config, trainer.data.class_names, trainer.data.digests, source)
    if state.step != checkpoints.step_of(checkpoint):
        raise UserError(
            f"--resume_from {source}: state.json of {checkpoint.name} has step {state.step}; copy or push it again."
        )
    own = checkpoints.list_checkpoints(root)
    if own and checkpoints.step_of(own[-1]) >= state.step:
        print(f"The checkpoint of {source} is not used, since {own[-1]} is at least as new.")
        return

    def fill(folder: Path) -> None:
        export_model(checkpoint, folder)  # rewritten, so that no code is copied along
        (folder / "training").mkdir()
        for name in listed_files(checkpoint):
            if name.startswith("training/") and not name.endswith(".py"):
                shutil.copyfile(checkpoint / name, folder / name)

    try:
        checkpoints.write_checkpoint(root, state.step, fill)
    except OSError as error:
        raise UserError(f"{trainer.output_dir} cannot be written ({error}): free some disk space.") from error
    print(f"Copied the checkpoint of step {state.step} from {source}.")


def _load_tensors(trainer: "Trainer", path: Path) -> None:
    """Load the weights, their averages and the optimizer's moments from a checkpoint."""
    network, names = trainer.config.network_name, [name for name, _ in trainer.named_parameters()]
    parameters = dict(trainer.named_parameters())
    shadows = dict(zip(names, trainer.ema.shadow_params, strict=True))
    averages = dict(load_network(trainer.network_class, path / network).named_parameters())
    moments: dict[str, dict] = {name: {} for name in names}
    with torch.no_grad():
        _copy(averages.items(), shadows)
        del averages
        _copy(checkpoints.read_tensors(path / "training" / f"{network}.safetensors"), parameters)
        if trainer.averages:
            own = dict(trainer.named_averages())
            _copy(checkpoints.read_tensors(path / "training/averages.safetensors"), own)
        for name, value in checkpoints.read_tensors(path / "training/optimizer.safetensors"):
            parameter, key = name.split("/")
            if value.dim():
                # In the parameter's memory format, such as channels-last, since the fused optimizer ignores strides.
                like = parameters[parameter]
                value = torch.empty_like(like).copy_(as_sharded(value, like))
            moments[parameter][key] = value
    inner = trainer.optimizer.optimizer
    if not all(moments.values()):
        raise KeyError(next(name for name, state in moments.items() if not state))
    name_of = {parameter: name for name, parameter in parameters.items()}
    in_order = dict(enumerate(moments[name_of[p]] for group in inner.param_groups for p in group["params"]))
    inner.load_state_dict({"state": in_order, "param_groups": inner.state_dict()["param_groups"]})


def _copy(source: Iterable[tuple[str, torch.Tensor]], targets: Mapping[str, torch.Tensor]) -> None:
    """Copy full tensors by name into perhaps sharded ones, all of them.

    Raises:
        KeyError: The names differ.
    """
    missing = set(targets)
    for name, value in source:
        target = targets[name]
        target.copy_(as_sharded(value, target))
        missing.remove(name)
    if missing:
        raise KeyError(sorted(missing)[0])


def _complete(config: dict, kind: Kind) -> dict:
    """A checkpoint's configuration without paths, with options that it does not know yet at their defaults."""
    network, *classes = SECTIONS[kind]
    defaults = dict(zip((network, "train", "data"), (asdict(section()) for section in (*classes, DataConfig))))
    config = {**config, "train": {_renamed(key): _renamed(value) for key, value in config.get("train", {}).items()}}
    return without_paths({name: {**defaults.get(name, {}), **options} for name, options in config.items()})


def _renamed(word: object) -> object:
    """The current name of an option or a choice that was renamed after the checkpoint was written."""
    return RENAMED.get(word, word) if isinstance(word, str) else word


def _flat(config: dict) -> dict:
    return {f"{section}.{key}": value for section, fields in config.items() for key, value in fields.items()}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
