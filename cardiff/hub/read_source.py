"""Reads what a model is that a run can start from, from its configurations and without running code.

Cardiff's own folders, stock pipelines of diffusers around a UNet2DModel, whose files may also lie side by side, and
the bare folder of a UNet2DModel. Of all of them JSON and safetensors are read, and nothing else.
"""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.config.network import DOWN_BLOCKS, UP_BLOCKS
from cardiff.config.run import Kind
from cardiff.errors import UserError
from cardiff.hub.provenance import read_record
from cardiff.hub.serialization import VARIANTS, WEIGHTS, find_files, variant_name
from cardiff.hub.source import Source, same_levels
from cardiff.hub.trust import check_noise, read_arguments
from cardiff.integrity import check_model, read_json
from cardiff.pipelines import ClassConditionalPipeline, NoisyClassifier
from cardiff.schedulers import SCHEDULES

HALF = [variant_name(variant) for variant in VARIANTS]
"""Weights that are read where there are none in float32."""
_SCHEDULER, _INDEX = "scheduler_config.json", "model_index.json"
FILES = [_INDEX, "config.json", _SCHEDULER, f"scheduler/{_SCHEDULER}", "run.json", "checksums.json", "README.md"]
FILES += [f"{part}{name}" for part in ("", "unet/", "classifier/") for name in ("config.json", WEIGHTS, *HALF)]
"""What is read of a repository, by name."""
LORA = ("pytorch_lora_weights.safetensors", "adapter_config.json", "adapter_model.safetensors")
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
KEPT = ("fixed_small", "fixed_large")
"""Variances of DDPM's step that a run has, too."""


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
    if Path(name).is_file():
        raise UserError(
            f"--init_from {name} is a file, but must be the folder of a model with its config.json, or a Hub "
            "repository: a single file does not say which network it is for."
        )
    return find_files(name, revision, FILES)


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
    return Source(name, source_kind, arguments, scheduler, names, folder, weights)


def _classifier(name: str, folder: Path) -> Source:
    part = folder / "classifier"
    if read_json(part / "config.json").get("_class_name") != NoisyClassifier.__name__:
        raise UserError(f"--init_from {name}: its classifier is not a {NoisyClassifier.__name__} of this project.")
    arguments = _arguments(NoisyClassifier, part)
    names = _sorted_names(arguments["id2label"])
    scheduler, weights = _section(name, folder / "scheduler", folder), _weights(name, part)
    return Source(name, "classifier", arguments, scheduler, names, folder, weights)


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
    kind = getattr(diffusers, str(content.get("_class_name", DDPMScheduler.__name__)), None)
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
    if record is not None and record["config"]["scheduler"]["name"] in SCHEDULES:  # and no function of a file
        candidates.append({**record["config"]["scheduler"], **common})
    if arguments.get("beta_schedule", "linear") == "linear":
        ends = {key: arguments[key] for key in ("beta_start", "beta_end") if key in arguments}
        candidates.append({"name": "linear", **ends, **common})
    for section in candidates:
        if same_levels(section, scheduler.betas):
            return section
    signal = np.cumprod(1 - scheduler.betas.double().numpy())
    return {"name": "table", "alphas_cumprod": signal.tolist(), **common}
