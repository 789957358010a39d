"""A model's files may be anybody's: they are looked at before diffusers opens them.

diffusers takes a configuration that is not an object for the name of another folder or repository and follows it. It
makes networks of any size, and takes arguments of wrong types, with which sampling fails half-way.
"""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

import torch
from diffusers import UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import safe_open

from cardiff.errors import UserError
from cardiff.hub.forms import fits, in_words
from cardiff.integrity import read_json

LARGEST = 10**6
"""Of the numbers in a configuration: no network has so many channels or classes, and no schedule so many steps."""
LONGEST = {"layers_per_block": 100, "sample_size": 2**14}
"""Smaller bounds of single numbers."""
DEEPEST = 32
"""Resolutions that a network may have."""


def read_arguments(kind: type, file: Path) -> dict[str, Any]:
    """The arguments of a network or a scheduler in a configuration, without what else is in it.

    Args:
        kind: The class, whose signature says of which type they are.
        file: The configuration.

    Raises:
        FileNotFoundError: There is none.
        UserError: It is not an object, or an argument is of a wrong type or absurdly large.
    """
    content = read_json(file)
    initialize: Any = inspect.getattr_static(kind, "__init__")
    hints = get_type_hints(initialize)
    if content.get("quantization_config") is not None:
        raise UserError(f"{_place(file)} asks for quantized weights; this project reads plain ones.")
    arguments = {}
    for name, parameter in inspect.signature(initialize).parameters.items():
        if name in content:
            value, hint = content[name], hints.get(name, Any)
            if not (fits(value, hint) or value == parameter.default):
                raise UserError(f"{_place(file)}: {name} is {_short(value)}, but must be {in_words(hint)}.")
            _refuse_absurd(name, value, file)
            arguments[name] = value
    return arguments


def _refuse_absurd(name: str, value: object, file: Path) -> None:
    items = value if isinstance(value, list) else [value]
    numbers = [number for number in items if isinstance(number, int | float)]
    largest = LONGEST.get(name, LARGEST)
    if any(abs(number) > largest for number in numbers):
        raise UserError(f"{_place(file)}: {name} is {_short(value)}, but must be at most {largest:,}.")
    if name.endswith(("block_out_channels", "block_types")) and len(items) > DEEPEST:
        raise UserError(f"{_place(file)}: {name} lists {len(items)} resolutions, but must list at most {DEEPEST}.")


def check_network(kind: type[torch.nn.Module], arguments: dict[str, Any], weights: Path) -> None:
    """Refuse weights that are not those of a network, and a network that cannot be applied, at no cost of memory.

    Raises:
        UserError: The file has other tensors, or the arguments do not go together.
    """
    with torch.device("meta"):
        network = kind(**arguments).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    with safe_open(weights, framework="pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}
        there = {name: tensor.get_shape() for name, tensor in found.items()}
        kinds = {name: tensor.get_dtype() for name, tensor in found.items()}
    # diffusers initializes missing weights at random and ignores unexpected ones.
    for problem, names in {
        "missing": shapes.keys() - there.keys(),
        "unexpected": there.keys() - shapes.keys(),
    }.items():
        if names:
            raise UserError(f"the weights have {problem} keys: {sorted(names)[:3]}.")
    for name, shape in shapes.items():
        if there[name] != shape:
            raise UserError(f"the weights have {name} of the shape {there[name]}, but the network of {shape}.")
        if kinds[name] not in ("F64", "F32", "F16", "BF16"):
            raise UserError(f"the weights have {name} of the type {kinds[name]}, but must be floats.")
    _try(network)


def _try(network: torch.nn.Module) -> None:
    """Apply a network without memory to one image, which tells whether its blocks fit together."""
    config: Any = network.config
    size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
    denoises = isinstance(network, UNet2DModel)
    with torch.device("meta"), torch.no_grad():
        image, time = torch.empty(1, config.in_channels, *size), torch.zeros(1, dtype=torch.long)
        labelled = denoises and config.num_class_embeds is not None
        result = network(image, time, **({"class_labels": torch.zeros(1, dtype=torch.long)} if labelled else {}))
    if denoises and result.sample.shape != image.shape:
        raise UserError(f"the network makes {list(result.sample.shape)[1:]} of images {list(image.shape)[1:]}.")


def check_noise(scheduler: SchedulerMixin) -> None:
    """Refuse noise levels that are none: betas lie between 0 and 1; the last may be 1, which is noise alone.

    Raises:
        UserError: They do not, or the scheduler has none.
    """
    betas = getattr(scheduler, "betas", None)
    if betas is None or getattr(scheduler, "alphas_cumprod", None) is None:
        raise UserError(f"scheduler/scheduler_config.json: a {type(scheduler).__name__} has no noise levels in betas.")
    if len(betas) != scheduler.config.num_train_timesteps or not len(betas):
        raise UserError(
            f"scheduler/scheduler_config.json: trained_betas has {len(betas)} values, but num_train_timesteps is "
            f"{scheduler.config.num_train_timesteps}."
        )
    wrong = ~((betas > 0) & (betas < 1))  # also NaN
    wrong[-1] &= betas[-1] != 1
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise UserError(
            f"scheduler/scheduler_config.json: beta {first} is {float(betas[first]):g}, but must lie between 0 and 1."
        )


def refuse_links(files: Iterable[Path], folder: Path) -> None:
    """Refuse to read what lies elsewhere in the name of a folder that is published or exported.

    The folder itself may be reached by a link. The cache of the Hub keeps the files of a model in a folder beside it.

    Raises:
        UserError: A file is a link, or lies behind one, that leads out of the folder.
    """
    root = folder.resolve()
    snapshots = [place.parent for place in (root, root.parent) if place.parent.name == "snapshots"]
    within = [root, *(place.parent / "blobs" for place in snapshots)]
    for file in files:
        if file.exists() and not any(file.resolve().is_relative_to(place) for place in within):
            raise UserError(
                f"{file} is a link that leads out of {folder}, and is not published: put the file itself there."
            )


def _place(file: Path) -> str:
    """A configuration's name within the folder of its model."""
    return f"{file.parent.name}/{file.name}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
