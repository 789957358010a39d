"""The model that a run starts from (--init_from): what it is, read from its configurations without running code.

Cardiff's own folders, stock pipelines of diffusers around a UNet2DModel, whose files may also lie side by side, and
the bare folder of a UNet2DModel. Of all of them JSON and safetensors are read, and nothing else.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import yaml
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError, safe_open

from cardiff.config.files import ConfigFile
from cardiff.config.network import DOWN_BLOCKS, UP_BLOCKS, ClassifierConfig, NetworkConfig, UNetConfig
from cardiff.config.run import Kind, RunConfig
from cardiff.config.schedule import make_schedule
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.client import download
from cardiff.hub.provenance import BaseModel, public_name, read_record
from cardiff.hub.trust import check_noise, read_arguments
from cardiff.integrity import check_model, read_json
from cardiff.layout import shipped_model
from cardiff.pipelines import ClassConditionalPipeline, NoisyClassifier

WEIGHTS = "diffusion_pytorch_model.safetensors"
HALF = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors")
"""Weights that are read where there are none in float32."""
_SCHEDULER, _INDEX = "scheduler_config.json", "model_index.json"
FILES = [_INDEX, "config.json", _SCHEDULER, f"scheduler/{_SCHEDULER}", "run.json", "checksums.json", "README.md"]
FILES += [f"{part}{name}" for part in ("", "unet/", "classifier/") for name in ("config.json", WEIGHTS, *HALF)]
"""What is read of a repository, by name."""
LORA = ("pytorch_lora_weights.safetensors", "adapter_config.json", "adapter_model.safetensors")
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names in weights written before diffusers 0.15, and what they are now."""
OF_SAMPLING = ("variance_type", "clip_sample", "timestep_spacing")
"""Arguments of a schedule that do not change its noise levels."""
FREE = ("dropout",)
"""Options of a network that change no weight."""
KEPT = ("fixed_small", "fixed_large")
"""Variances of DDPM's step that a run has, too."""


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
    weights: Path
    base: BaseModel
    """How the record of the run names it."""

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.arguments["in_channels"]

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
        if not _same_levels(config.scheduler, make_schedule(self.scheduler).betas):
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


def read_source(name: str, revision: str | None = None) -> Source:
    """What a model is that a run can start from; its weights are not read yet.

    Args:
        name: A folder, the bare name of a shipped model, or a Hub repository.
        revision: Branch, tag or commit of the repository.

    Raises:
        UserError: It is none, or none that a UNet2DModel or classifier of this project can start from.
    """
    folder = _find(name, revision)
    try:
        check_model(folder)
        return _read(name, folder)
    except UserError as error:
        if str(error).startswith("--init_from"):
            raise
        raise UserError(f"--init_from {name}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(repr(error).split())
        raise UserError(
            f"--init_from {name} is damaged or incomplete ({reason}): copy or download it again."
        ) from error


def _find(name: str, revision: str | None) -> Path:
    path = Path(name)
    if path.is_file():
        raise UserError(
            f"--init_from {name} is a file, but must be the folder of a model with its config.json, or a Hub "
            "repository: a single file does not say which network it is for."
        )
    if path.is_dir():
        return path
    return shipped_model(name) or download(name, FILES, revision)


def _read(name: str, folder: Path) -> Source:
    unet = folder / "unet" if (folder / "unet/config.json").is_file() else folder
    if (folder / "classifier/config.json").is_file() and not (folder / _INDEX).is_file():
        return _classifier(name, folder)
    index = read_json(folder / _INDEX) if (folder / _INDEX).is_file() else None
    if index is not None and "unet" in index and list(index["unet"]) != ["diffusers", "UNet2DModel"]:
        raise UserError(
            f"--init_from {name}: its network is a {' '.join(map(str, list(index['unet'])[1:]))}, but only a "
            "UNet2DModel, which draws pixels from timesteps and classes, can be started from."
        )
    if not (unet / "config.json").is_file():
        raise UserError(f"--init_from {name} {_what_it_is(folder)}")
    kind = read_json(unet / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise UserError(
            f"--init_from {name}: its config.json describes a {kind}, but only a UNet2DModel, which draws pixels from "
            "timesteps and classes, can be started from."
        )
    arguments = _arguments(UNet2DModel, unet)
    _refuse_other_networks(name, arguments)
    names = _class_names(name, index, arguments)
    place = next((p for p in (folder / "scheduler", folder) if (p / _SCHEDULER).is_file()), None)
    scheduler = None if place is None else _section(name, place, folder)
    weights = _weights(name, unet)
    source_kind: Kind = "conditional" if names else "unconditional"
    return Source(name, source_kind, arguments, scheduler, names, weights, _base(name, folder, weights))


def _classifier(name: str, folder: Path) -> Source:
    part = folder / "classifier"
    if read_json(part / "config.json").get("_class_name") != NoisyClassifier.__name__:
        raise UserError(f"--init_from {name}: its classifier is not a {NoisyClassifier.__name__} of this project.")
    arguments = _arguments(NoisyClassifier, part)
    names = _sorted_names(arguments["id2label"])
    scheduler, weights = _section(name, folder / "scheduler", folder), _weights(name, part)
    return Source(name, "classifier", arguments, scheduler, names, weights, _base(name, folder, weights))


def _what_it_is(folder: Path) -> str:
    """The end of a sentence about a folder without the configuration of a network."""
    if any((folder / name).is_file() for name in LORA):
        return "holds a LoRA, which changes another network: name the model that it belongs to."
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"holds {pickles[0]}, which may be a pickle and says nothing of its network: name a folder with a "
            "config.json and safetensors."
        )
    return "has no unet/config.json and no config.json: name a UNet2DModel's folder or repository, or a pipeline's."


def _arguments(network: type, folder: Path) -> dict[str, Any]:
    """All arguments of a network: those of its config.json, and the defaults of the others."""
    initialize: Any = inspect.getattr_static(network, "__init__")
    parameters = list(inspect.signature(initialize).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {**defaults, **read_arguments(network, folder / "config.json")}


def _refuse_other_networks(name: str, arguments: dict[str, Any]) -> None:
    """Refuse a UNet2DModel that no section `unet` describes."""
    known = {"down_block_types": DOWN_BLOCKS, "up_block_types": UP_BLOCKS}
    for option, blocks in known.items():
        other = [block for block in arguments[option] if block not in blocks]
        if other:
            raise UserError(f"--init_from {name}: {option} has {other[0]}, but must be of {' and '.join(blocks)}.")
    if arguments["in_channels"] != arguments["out_channels"]:
        raise UserError(
            f"--init_from {name}: the network has {arguments['in_channels']} channels in and "
            f"{arguments['out_channels']} out, so it predicts variances or is given other images; only one that "
            "predicts as much as it sees can be started from."
        )
    if arguments["in_channels"] not in (1, 3):
        raise UserError(
            f"--init_from {name}: the network has {arguments['in_channels']} channels, as those that work on codes of "
            "an autoencoder; only 1 (grey) and 3 (RGB) can be started from."
        )
    if arguments["class_embed_type"] is not None:
        raise UserError(
            f"--init_from {name}: class_embed_type is {arguments['class_embed_type']}, but only a table of class "
            "embeddings (null) has rows for classes."
        )
    if arguments["time_embedding_type"] == "fourier":
        raise UserError(
            f"--init_from {name}: time_embedding_type is fourier, whose network divides by the noise level of a "
            "variance-exploding process; only those of DDPM (positional, learned) can be started from."
        )
    size = arguments["sample_size"]
    if not (size is None or isinstance(size, int) or len(set(size)) == 1):
        raise UserError(f"--init_from {name}: its images are {size[0]}×{size[1]}, but must be square.")


def _class_names(name: str, index: dict | None, arguments: dict[str, Any]) -> list[str]:
    """The names of the classes, without the null class; none for an unconditional network."""
    count = arguments["num_class_embeds"]
    if count is None:
        return []
    id2label = (index or {}).get("id2label")
    pipeline = (index or {}).get("_class_name")
    ours = ClassConditionalPipeline.__name__ in (pipeline if isinstance(pipeline, list) else [pipeline])
    if not ours or not isinstance(id2label, dict):
        raise UserError(
            f"--init_from {name}: the network has {count} class embeddings, but nothing says of which classes: name "
            "the folder of a ClassConditionalPipeline, whose model_index.json does (id2label)."
        )
    names = _sorted_names(id2label)
    if len(names) + 1 != count:
        raise UserError(
            f"--init_from {name}: id2label has {len(names)} classes, so that the network must have {len(names) + 1} "
            f"class embeddings, the last of them the null class, but it has {count}."
        )
    return names


def _sorted_names(id2label: dict) -> list[str]:
    return [str(id2label[key]) for key in sorted(id2label, key=int)]


def _weights(name: str, folder: Path) -> Path:
    """The file of the weights; half precision if there is no other."""
    for index in folder.glob("*.index.json"):
        raise UserError(
            f"--init_from {name}: {index.name} splits the weights into several files; this project reads one."
        )
    found = [folder / file for file in (WEIGHTS, *HALF) if (folder / file).is_file()]
    if found:
        return found[0]
    raise UserError(
        f"--init_from {name} has no {WEIGHTS}: only safetensors are read, since other formats can run code; "
        "`UNet2DModel.from_pretrained(…).save_pretrained(FOLDER)` converts weights that you trust."
    )


def _section(name: str, place: Path, folder: Path) -> dict:
    """Noise levels as the section `scheduler` of a configuration: those of the run's record, linear β, or a table."""
    content = read_json(place / _SCHEDULER)
    kind: Any = getattr(diffusers, str(content.get("_class_name", DDPMScheduler.__name__)), None)
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        raise UserError(f"--init_from {name}: its scheduler is a {content.get('_class_name')}, which diffusers lacks.")
    arguments = read_arguments(kind, place / _SCHEDULER)
    made: Any = kind
    scheduler = made.from_config(arguments)
    check_noise(scheduler)
    if arguments.get("variance_type") in ("learned", "learned_range"):
        raise UserError(f"--init_from {name}: its variances are learned; only fixed ones can be trained here.")
    common: dict[str, Any] = {
        "num_train_timesteps": scheduler.config.num_train_timesteps,
        "prediction_type": scheduler.config.get("prediction_type", "epsilon"),
    }
    variance = str(arguments.get("variance_type", "fixed_small")).removesuffix("_log")
    if variance in KEPT:
        common["variance_type"] = variance
    if "clip_sample" in arguments:
        common["clip_sample"] = arguments["clip_sample"]
    if scheduler.alphas_cumprod[-1] == 0:
        common["rescale_betas_zero_snr"] = True
    candidates: list[dict] = []
    record = read_record(folder)
    if record is not None:
        candidates.append({**record["config"]["scheduler"], **common})
    if arguments.get("beta_schedule", "linear") == "linear":
        ends = {key: arguments[key] for key in ("beta_start", "beta_end") if key in arguments}
        candidates.append({"name": "linear", **ends, **common})
    for section in candidates:
        if _same_levels(section, scheduler.betas):
            return section
    signal = np.cumprod(1 - scheduler.betas.double().numpy())
    return {"name": "table", "alphas_cumprod": signal.tolist(), **common}


def _same_levels(section: dict, betas: torch.Tensor) -> bool:
    """Whether a section gives these β, up to the rounding of float32."""
    try:
        found = make_schedule(section).betas
    except (UserError, OSError, TypeError):
        return False  # a function of one's own, whose file is not here
    return found.shape == betas.shape and torch.allclose(found.double(), betas.double(), rtol=5e-7, atol=0)


def _base(name: str, folder: Path, weights: Path) -> BaseModel:
    commit = folder.name if folder.parent.name == "snapshots" else None
    return {
        "name": public_name(name),
        "revision": commit,
        "license": _license(folder / "README.md"),
        "weights_sha256": file_hash(weights),
    }


def _license(card: Path) -> str | None:
    """The licence in the metadata of a model card, if it says one."""
    if not card.is_file():
        return None
    parts = re.split(r"^---\s*$", card.read_text(encoding="utf-8", errors="replace"), maxsplit=2, flags=re.M)
    if len(parts) < 3:
        return None
    try:
        metadata = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


def _renamed(name: str) -> str:
    """The present name of a weight."""
    for old, new in OLD_ATTENTION.items():
        if ".attentions." in name:
            name = name.replace(old, new)
    return name


def rows_of(class_names: Sequence[str], source: Sequence[str]) -> list[int]:
    """For each class the row of the source with its name, or the source's null row, the last; then the null row."""
    places = {name: row for row, name in enumerate(source)}
    return [*(places.get(name, len(source)) for name in class_names), len(source)]
