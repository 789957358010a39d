"""The model that a run starts from (--init_from): what is taken over, and what of a configuration contradicts it."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import metadata_load
from safetensors import SafetensorError, safe_open

from cardiff.config.files import ConfigFile
from cardiff.config.network import ClassifierConfig, NetworkConfig, UNetConfig
from cardiff.config.run import Kind, RunConfig
from cardiff.config.schedule import make_schedule
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.provenance import BaseModel, public_name

OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names in weights written before diffusers 0.15, and what they are now."""
OF_SAMPLING = ("variance_type", "clip_sample", "timestep_spacing")
"""Arguments of a schedule that do not change its noise levels."""
FREE = ("dropout",)
"""Options of a network that change no weight."""


@dataclass
class Source:
    """A model to start from."""

    name: str
    """As the user named it."""
    kind: Kind
    arguments: dict[str, Any]
    """Of the network, all of them."""
    scheduler: dict | None
    """Its noise levels as the section of a configuration; None for a bare network."""
    class_names: list[str]
    """Of the rows of the class embeddings; the row after the last is the null class."""
    folder: Path
    weights: Path

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.arguments["in_channels"]

    @cached_property
    def base(self) -> BaseModel:
        """How the record of the run names it; all of the weights are read for their checksum."""
        card = self.folder / "README.md"
        try:
            metadata = metadata_load(card) if card.is_file() else None
        except (ValueError, yaml.YAMLError):
            metadata = None  # a card that was written by hand
        license = (metadata or {}).get("license")
        return {
            "name": public_name(self.name),
            "revision": self.folder.name if self.folder.parent.name == "snapshots" else None,
            "license": license if isinstance(license, str) else None,
            "weights_sha256": file_hash(self.weights),
        }

    def sections(self) -> dict[str, dict]:
        """The sections of a configuration that are taken over: network, noise levels, and the size of the images."""
        size = self.arguments["sample_size"]
        data: dict[str, Any] = {"channels": self.channels}
        if size is not None:
            data["resolution"] = size if isinstance(size, int) else size[0]
        section: type[NetworkConfig] = ClassifierConfig if self.kind == "classifier" else UNetConfig
        names = [field.name for field in fields(section)]
        values = {name: self.arguments[name] for name in names if name in self.arguments}
        network = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        found: dict[str, dict] = {"data": data, section.section: network}
        return found if self.scheduler is None else {**found, "scheduler": self.scheduler}

    def refuse_kind(self, kind: Kind) -> None:
        """Refuse a classifier for a diffusion model, and the reverse.

        Raises:
            UserError: It is one.
        """
        if (kind == "classifier") != (self.kind == "classifier"):
            wanted = "classifier" if kind == "classifier" else "diffusion model"
            raise UserError(
                f"--init_from {self.name} is a model of the kind {self.kind}, with another network than a run of "
                f"train_{kind}.py: start from a {wanted}."
            )

    def fit(self, file: ConfigFile) -> tuple[ConfigFile, list[str]]:
        """A configuration file without what the source decides, and sentences about what it says otherwise.

        A file is written for a network of its own, so what it says of that is no contradiction but another subject.
        """
        notes = []
        found = self.sections()
        (network,) = found.keys() - {"data", "scheduler"}
        decided = found[network].keys() - set(FREE)
        given = {name: value for name, value in file.section(network).items() if name in decided}
        other = [f"{network}.{name}" for name, value in given.items() if value != found[network][name]]
        if other:
            left = _left_out(other, file)
            notes.append(f"{left}: the network is that of --init_from {self.name}.")
        file = file.without(network, decided)
        if self.scheduler is None:
            return file, notes
        section = file.section("scheduler")
        decided = section.keys() - set(OF_SAMPLING)
        other = [f"scheduler.{name}" for name in decided if section[name] != self.scheduler.get(name, section[name])]
        if other:
            hint = ""
            if "scheduler.name" in other and self.kind != "classifier":
                hint = f" (train.timesteps_from {section['name']} trains as often at each level as that schedule)"
            left = _left_out(sorted(other), file)
            notes.append(f"{left}: the noise levels are those of --init_from {self.name}{hint}.")
        return file.without("scheduler", decided), notes

    def refuse_contradictions(self, config: RunConfig) -> None:
        """Refuse a run of another network, other noise levels or another prediction than those of the weights.

        Raises:
            UserError: One sentence names the option, both values and the remedy.
        """
        found = self.sections()
        for option, value in found[config.network_name].items():
            given = getattr(config.network, option)
            if given != value and option not in FREE:
                raise UserError(
                    f"{config.network_name}.{option} is {given}, but {value} in the network of --init_from "
                    f"{self.name}, whose weights fit no other: leave the option out."
                )
        if self.scheduler is None:
            return
        for option in ("prediction_type", "num_train_timesteps"):
            given, value = config.scheduler[option], self.scheduler[option]
            if given != value:
                raise UserError(
                    f"scheduler.{option} is {given}, but --init_from {self.name} was trained with {value}, and its "
                    "network answers to that: leave the option out."
                )
        if not same_levels(config.scheduler, make_schedule(self.scheduler).betas):
            name = config.scheduler["name"]
            remedy = "leave the section scheduler out"
            if config.kind != "classifier":
                remedy += f", and give train.timesteps_from {name} to train as often at each level as that does"
            raise UserError(
                f"scheduler.name is {name}, but the timesteps of --init_from {self.name} have other noise levels "
                f"({self.scheduler['name']}): {remedy}."
            )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, in float32.

        Raises:
            UserError: The file is damaged, or a weight is not finite.
        """
        found = {}
        try:
            with safe_open(self.weights, framework="pt") as file:
                for name in file.keys():
                    tensor = file.get_tensor(name)
                    if not tensor.is_floating_point() or not tensor.isfinite().all():
                        raise UserError(
                            f"--init_from {self.name}: {name} in {self.weights.name} is not finite or not a float: "
                            "copy or download it again, or start from another model."
                        )
                    found[_renamed(name)] = tensor.float()
        except (SafetensorError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--init_from {self.name}: {self.weights.name} is damaged ({reason}): copy or download it again."
            ) from error
        return found


def _left_out(options: list[str], file: ConfigFile) -> str:
    """The beginning of a sentence."""
    return f"{', '.join(options)} of {file.name} {'is' if len(options) == 1 else 'are'} left out"


def same_levels(section: dict, betas: torch.Tensor) -> bool:
    """Whether a section gives these β, up to the rounding of float32."""
    try:
        found = make_schedule(section).betas
    except (UserError, TypeError):
        return False  # of another version of the project
    return found.shape == betas.shape and torch.allclose(found.double(), betas.double(), rtol=5e-7, atol=0)


def _renamed(name: str) -> str:
    """The present name of a weight."""
    for old, new in OLD_ATTENTION.items():
        if ".attentions." in name:
            name = name.replace(old, new)
    return name
