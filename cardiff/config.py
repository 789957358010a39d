"""The typed configuration of a run and its command line.

A run is four sections: `data` and `train` are the dataclasses below, `unet` holds arguments of diffusers' UNet2DModel
or, in its place, `classifier` those of NoisyClassifier, and `scheduler` the arguments of the schedule named by
`scheduler.name`.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml

from cardiff.cli import CommandLine, say_note
from schedulers import SCHEDULES, NoiseSchedule, find_schedule


@dataclass
class DataConfig:
    """Where the images come from and what is done to them once, before training."""

    path: str = "parquet"
    """Hub name, folder of images, Stanford Cars in its original layout, or a format: parquet, arrow, imagefolder."""
    name: str | None = None
    """Configuration (subset) of a Hub data set that has several."""
    data_files: str | list[str] | None = None
    """File, pattern or list of them to read when `path` is a format."""
    revision: str | None = None
    """Commit, tag or branch of a Hub data set."""
    split: str = "train"
    """Split to train on."""
    image_column: str = "image"
    """Column that holds the images."""
    label_column: str = "label"
    """Column that holds the class labels."""
    resolution: int = 32
    """Height and width in pixels; the network's sample_size follows."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB; the network's channels in and out follow."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture becomes square: cut the middle out, pad with black, or distort."""
    upscale: bool = False
    """Enlarge images smaller than the resolution instead of refusing them."""
    crop_to_box: bool = False
    """Cut each image to its bounding box first."""
    box_column: str = "bbox"
    """Column of bounding boxes (x1, y1, x2, y2) in pixels, read when crop_to_box is set."""
    box_margin: float = 0.1
    """Margin kept around the box on each side, as a share of the box's width and height."""
    horizontal_flip: bool = True
    """Mirror each training image with probability one half."""
    on_error: Literal["raise", "skip"] = "raise"
    """What an unreadable image does: stop the run, or be left out, counted and listed."""
    streaming: bool = False
    """Read through `datasets` streaming and decode on the fly, for sets that do not fit on the disk."""
    shuffle_buffer: int = 10000
    """Images in each shuffled block of a stream."""
    cache_dir: str | None = None
    """Folder of the decoded image stores (default: $CARDIFF_CACHE, else ~/.cache/cardiff)."""
    num_workers: int = 0
    """Processes per GPU that fetch batches ahead; 0 fetches in the training process."""
    license: str | None = None
    """Licence of the images, for the model card."""


BOUND_TO_DATA = ("data_files", "name", "revision", "split", "image_column", "label_column", "box_column", "license")
"""What a data section says of its one data set; the other fields are what is done to any images."""


@dataclass
class NetworkConfig:
    """The way down, which a UNet and a classifier have in common."""

    block_out_channels: list[int] = field(default_factory=lambda: [64, 128, 256, 256])
    """Channels of each resolution, from the full size down; the length is the number of resolutions."""
    layers_per_block: int = 2
    """ResNet blocks per resolution on the way down (a UNet has one more on the way up)."""
    down_block_types: list[str] = field(
        default_factory=lambda: ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    )
    """One per resolution: DownBlock2D, or AttnDownBlock2D with self-attention."""
    attention_head_dim: int | None = 64
    """Channels per attention head, also in a classifier's pooling; null for one head."""
    dropout: float = 0.0
    """Dropout in every ResNet block."""
    norm_num_groups: int = 32
    """Groups of each GroupNorm; divides every entry of block_out_channels."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Add the embedding of timestep and class to the features, or scale and shift them by it (AdaGN)."""


@dataclass
class UNetConfig(NetworkConfig):
    """Arguments of diffusers' UNet2DModel; size and channels follow from `data`, class embeddings from the labels."""

    up_block_types: list[str] = field(
        default_factory=lambda: ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]
    )
    """The mirror image of down_block_types: UpBlock2D or AttnUpBlock2D."""
    downsample_type: Literal["conv", "resnet"] = "conv"
    """Strided convolution, or a ResNet block that downsamples."""
    upsample_type: Literal["conv", "resnet"] = "conv"
    """Convolution after nearest-neighbour upsampling, or a ResNet block that upsamples."""
    add_attention: bool = True
    """Self-attention in the middle block."""


@dataclass
class ClassifierConfig(NetworkConfig):
    """Arguments of NoisyClassifier; size, channels, classes and noise levels follow from `data` and `scheduler`."""


@dataclass
class TrainConfig:
    """Length, optimizer, precision and bookkeeping of any training run."""

    epochs: float = 100
    """Passes over the data; ignored when max_steps is given."""
    max_steps: int | None = None
    """Optimizer steps to train for, instead of epochs."""
    batch_size: int = 128
    """Images per optimizer step over all processes and accumulation steps together."""
    gradient_accumulation_steps: int = 1
    """Parts each process splits its share of the batch into, to fit the memory."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate over the run, by diffusers' get_scheduler."""
    lr_warmup_steps: int = 500
    """Optimizer steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: float = 0.9999
    """Largest decay of the weight average; at step n it is at most (1+n)/(10+n), so short runs average less."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the forward pass; null leaves it to accelerate's own configuration."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory format."""
    seed: int = 0
    """Seed of the weights and of every draw: data order, noise, timesteps, flips, dropped labels, held-out images."""
    log_every: int = 50
    """Steps between entries in the log; also how often the loss is checked for NaN. 0: only with checkpoints."""
    checkpoint_every: int = 5000
    """Steps between checkpoints, besides the one at the end. 0 for never."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    keep_checkpoints_every: int = 0
    """Keep also every checkpoint whose step is a multiple of this. 0 for none."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Accelerate trackers: tensorboard, wandb, … logs/metrics.jsonl is always written."""


@dataclass
class DiffusionTrainConfig(TrainConfig):
    """Length, optimizer, precision, objective, sample grids and bookkeeping of the training run."""

    loss_weighting: Literal["uniform", "min_snr", "schedule_free"] = "uniform"
    """Weights of the loss over timesteps: none, min-SNR (arXiv 2303.09556), or those that divide the schedule out."""
    min_snr_gamma: float = 5.0
    """Where min-SNR caps the signal-to-noise ratio."""
    sample_every: int = 5000
    """Steps between sample grids from the averaged weights, besides the one at the end. 0 for never."""
    sample_images: int = 64
    """Images in a sample grid."""
    sample_steps: int = 25
    """DPM-Solver++ steps of a sample grid."""
    evaluate_every: int = 0
    """Steps between small evaluations of the averaged weights against the data, besides the one at the end; the best
    model so far is kept in best/. 0 for never."""
    evaluate_images: int = 1000
    """Images drawn for an evaluation, by sample_steps steps without guidance."""
    evaluate_network: str = "pixels"
    """Network whose Fréchet distance is measured, as --network of evaluate.py."""


@dataclass
class ConditionalTrainConfig(DiffusionTrainConfig):
    """Length, optimizer, precision, objective, conditioning, sample grids and bookkeeping of the training run."""

    label_dropout: float = 0.1
    """Share of the labels replaced by the null class, drawn per image."""
    sample_guidance_scale: float = 2.0
    """Guidance scale of the sample grids."""


@dataclass
class ClassifierTrainConfig(TrainConfig):
    """Length, optimizer, precision, measuring and bookkeeping of a classifier's training run."""

    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW; the value of Dhariwal and Nichol (arXiv 2105.05233)."""
    held_out: float = 0.1
    """Share of the images that are kept from training and measured. 0 measures nothing."""
    report_every: int = 5000
    """Steps between reports on the held-out images, besides the one at the end. 0 for never."""


@dataclass(kw_only=True)
class HubTarget:
    """Where on the Hub a model goes."""

    hub_model_id: str | None = None
    """Repository, NAME or OWNER/NAME (default: the last part of the folder's name)."""
    hub_private: bool = False
    """Create the repository as a private one; a public one of that name is refused."""
    hub_revision: str | None = None
    """Branch to push to, made if need be (default: main)."""
    hub_license: str | None = None
    """Licence of the weights, for the model card: mit, cc-by-nc-4.0, …"""
    hub_resume_id: str | None = None
    """Private repository that takes the newest checkpoint with its optimizer state, for --resume_from."""

    def check(self) -> None:
        """Refuse what cannot be the name of a repository.

        Raises:
            ValueError: In one sentence.
        """
        for name in ("hub_model_id", "hub_resume_id"):
            value = getattr(self, name)
            if value is not None and not _REPOSITORY.fullmatch(value):
                raise ValueError(
                    f"--{name} {value} cannot be a repository of the Hub: give NAME or OWNER/NAME of letters, digits, "
                    "'-', '_' and '.'."
                )
        if self.hub_resume_id is not None and self.hub_resume_id == self.hub_model_id:
            raise ValueError("--hub_resume_id must be another repository than --hub_model_id, which others may read.")


@dataclass(kw_only=True)
class HubOptions(HubTarget):
    """Whether and where a run is published while it trains."""

    push_to_hub: bool = False
    """Push the model with its card and samples at every checkpoint and at the end, in the background. The token is
    that of `hf auth login` or HF_TOKEN."""


_REPOSITORY = re.compile(r"(?!.*(--|\.\.))([\w.-]{1,96}/)?\w([\w.-]{0,94}\w)?", re.ASCII)

Kind = Literal["unconditional", "conditional", "classifier"]
# What each kind of run trains, which is also the name of the section that describes it, and its two sections.
SECTIONS = {
    "unconditional": ("unet", UNetConfig, DiffusionTrainConfig),
    "conditional": ("unet", UNetConfig, ConditionalTrainConfig),
    "classifier": ("classifier", ClassifierConfig, ClassifierTrainConfig),
}


@dataclass
class RunConfig:
    """A whole run, resolved: what `config.yaml` in the output folder holds."""

    output_dir: str
    kind: Kind
    data: DataConfig
    network: UNetConfig | ClassifierConfig
    """The section `unet` or `classifier`."""
    scheduler: dict
    """`name` of the schedule and the arguments of its class."""
    train: TrainConfig
    hub: HubOptions = field(default_factory=HubOptions)
    resume_from: str | None = None
    """Folder or Hub repository whose newest checkpoint the run goes on from."""

    @property
    def network_name(self) -> str:
        """Name of the section that describes the network: `unet` or `classifier`."""
        return SECTIONS[self.kind][0]

    @property
    def labelled(self) -> bool:
        """Whether the run needs the labels of the images."""
        return self.kind != "unconditional"

    def to_dict(self) -> dict:
        """The four sections, as the YAML file has them."""
        sections = asdict(self)
        sections[self.network_name] = sections["network"]
        return {name: sections[name] for name in ("data", self.network_name, "scheduler", "train")}


def make_schedule(scheduler: dict) -> NoiseSchedule:
    """The schedule of a `scheduler` section: what its name stands for, built from the other keys."""
    arguments = dict(scheduler)
    return find_schedule(arguments.pop("name"))(**arguments)


def parse_run(argv: Sequence[str] | None, *, kind: Kind, description: str) -> RunConfig:
    """Parse the command line of a training script; prints help or one sentence and exits when there is no run to do.

    The schedule is looked up first, since the arguments that `scheduler` takes depend on it, and so is the data set,
    to which some fields of the configurations are bound.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    glance = _Glance.at(argv)
    name = glance.schedule_name()
    network_name, network_section, train_section = SECTIONS[kind]
    parser = CommandLine(description)
    try:
        schedule = find_schedule(name)
    except ValueError as error:
        parser.error(f"scheduler.name: {error}")
    parser.add_argument("--config", action="config", help="YAML file with the sections below; give it first.")
    parser.add_argument("--output_dir", type=str, required=True, help="Folder of the run; a run found there goes on.")
    parser.add_argument(
        "--resume_from", type=str, help="Folder or Hub repository whose newest checkpoint this run goes on from."
    )
    parser.add_options(HubOptions, flags=("push_to_hub", "hub_private"))
    parser.add_argument(
        "--kind", type=Literal[kind], default=kind, help="Of a configuration: the script that it is for."
    )
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument(f"--{network_name}", type=network_section, default=network_section())
    parser.add_argument(
        "--scheduler.name",
        type=str,
        default=name,
        help=f"Noise schedule: {', '.join(SCHEDULES)}, or FILE.py:FUNCTION for a function of your own that returns "
        "alphas_cumprod at the times t; it brings the options below.",
    )
    parser.add_class_arguments(schedule, "scheduler", skip={"trained_betas"})
    parser.add_argument("--train", type=train_section, default=train_section())
    for path, content in glance.files.items():
        _check_kind(parser, path, content, kind)
    fitted, left = _fitted(argv, glance, name)
    parsed = parser.parse_args(fitted)
    config = RunConfig(
        output_dir=parsed.output_dir,
        kind=kind,
        data=DataConfig(**parsed.data.as_dict()),
        network=network_section(**parsed[network_name].as_dict()),
        scheduler=parsed.scheduler.as_dict(),
        train=train_section(**parsed.train.as_dict()),
        hub=HubOptions(**{option.name: parsed[option.name] for option in fields(HubOptions)}),
        resume_from=parsed.resume_from,
    )
    try:
        _check_hub(config)
        _check_train(config.train)
        _check_data(config.data)
        _check_network(config)
        _check_held_out(config)
        _check_evaluation(config)
        make_schedule(config.scheduler)  # its own checks of the parameters
    except ValueError as error:
        parser.error(str(error))
    _say_left(left, config.data)
    return config


def _check_hub(config: RunConfig) -> None:
    """Refuse names that cannot be repositories, and a target without the wish to push to it."""
    hub = config.hub
    hub.check()
    if hub.push_to_hub:
        return
    for name in ("hub_model_id", "hub_private", "hub_revision", "hub_license", "hub_resume_id"):
        if getattr(hub, name):
            raise ValueError(f"--{name} is given without --push_to_hub: add it, or leave both out.")


def _check_data(data: DataConfig) -> None:
    """Refuse numbers that have the right type and no meaning."""
    for name, least in (("resolution", 1), ("shuffle_buffer", 1), ("num_workers", 0), ("box_margin", 0)):
        if getattr(data, name) < least:
            raise ValueError(f"data.{name} is {getattr(data, name)}, but must be {least} or more.")


def _check_network(config: RunConfig) -> None:
    """Refuse blocks that do not fit together or do not fit the images, before any image is decoded."""
    name, network, resolution = config.network_name, config.network, config.data.resolution
    levels = len(network.block_out_channels)
    if levels == 0:
        raise ValueError(f"{name}.block_out_channels is empty: give the channels of each resolution.")
    for field_name in ("down_block_types", "up_block_types"):
        blocks = getattr(network, field_name, None)  # a classifier has no way up
        if blocks is not None and len(blocks) != levels:
            raise ValueError(
                f"{name}.{field_name} lists {len(blocks)} blocks and {name}.block_out_channels {levels}: "
                "give one for each resolution."
            )
    if resolution % 2 ** (levels - 1):
        raise ValueError(
            f"data.resolution is {resolution}, but the network's {levels} resolutions halve it {levels - 1} times: "
            f"make it a multiple of {2 ** (levels - 1)} or shorten {name}.block_out_channels."
        )


def _check_train(train: TrainConfig) -> None:
    """Refuse numbers that have the right type and no meaning; a kind of run has not all of them."""
    given = vars(train)
    positive = ("batch_size", "gradient_accumulation_steps", "learning_rate", "max_grad_norm", "sample_images")
    positive += ("sample_steps", "keep_checkpoints", "epochs", "min_snr_gamma")
    for name in positive:
        if not given.get(name, 1) > 0:
            raise ValueError(f"train.{name} is {given[name]}, but must be above 0.")
    counts = ("log_every", "checkpoint_every", "sample_every", "report_every", "evaluate_every", "lr_warmup_steps")
    for name in (*counts, "keep_checkpoints_every", "seed"):
        if given.get(name, 0) < 0:
            raise ValueError(f"train.{name} is {given[name]}, but must be 0 or more.")
    if train.max_steps is not None and train.max_steps < 1:
        raise ValueError(f"train.max_steps is {train.max_steps}, but must be 1 or more.")
    for name in ("ema_decay", "label_dropout"):
        if not 0 <= given.get(name, 0) <= 1:
            raise ValueError(f"train.{name} is {given[name]}, but must lie between 0 and 1.")


def _check_held_out(config: RunConfig) -> None:
    """Refuse a share that leaves nothing to train on, or that cannot be set aside."""
    held_out = getattr(config.train, "held_out", 0.0)
    if not 0 <= held_out < 1:
        raise ValueError(f"train.held_out is {held_out}, but must be 0 or more and below 1.")
    if held_out and config.data.streaming:
        raise ValueError(
            f"train.held_out is {held_out}, but images can be set aside only from a store: give --train.held_out 0 "
            "or leave data.streaming off."
        )


def _check_evaluation(config: RunConfig) -> None:
    """Refuse an evaluation that could not be made, before the training that leads to it."""
    if not getattr(config.train, "evaluate_every", 0):
        return
    if config.train.evaluate_images < 2:
        raise ValueError(f"train.evaluate_images is {config.train.evaluate_images}, but must be 2 or more.")
    if config.data.streaming:
        raise ValueError(
            "train.evaluate_every compares with the images of a store: give --train.evaluate_every 0 or leave "
            "data.streaming off."
        )


@dataclass
class _Glance:
    """What decides how the rest of a command line is read."""

    files: dict[str, dict]
    """The configurations in their order, by path; empty where one cannot be read, which the real parser reports."""
    schedule: str | None
    """`scheduler.name` of the command line."""
    path: str | None
    """`data.path` of the command line."""
    data_files: list[str] | None
    """`data.data_files` of the command line."""

    @classmethod
    def at(cls, argv: Sequence[str]) -> _Glance:
        """Read it from a command line; what is wrong with that is for the real parser to report."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config", action="append", default=[], nargs="?")
        for name in ("scheduler.name", "data.path", "data.data_files"):
            early.add_argument(f"--{name}", nargs="?")
        given = vars(early.parse_known_args(argv)[0])
        files = {path: _content(path) for path in given["config"] if path is not None}
        data_files = given["data.data_files"]
        try:
            data_files = data_files and yaml.safe_load(data_files)
        except yaml.YAMLError:
            pass  # a pattern such as *.parquet
        return cls(files, given["scheduler.name"], given["data.path"], _listed(data_files))

    def schedule_name(self) -> str:
        """`scheduler.name` as the configurations and the command line will give it."""
        names = [_section(content, "scheduler").get("name") for content in self.files.values()]
        return str(next((name for name in (self.schedule, *reversed(names)) if name is not None), "cosine"))

    def data(self) -> tuple[str, list[str] | None]:
        """`data.path` and `data.data_files` as the configurations and the command line will give them."""
        path, files = DataConfig.path, None
        sections = [_section(content, "data") for content in self.files.values()]
        for section in [*sections, {"path": self.path, "data_files": self.data_files}]:
            new = section.get("path")
            if new is not None and not _same_path(str(new), path):
                path, files = str(new), None
            files = _listed(section.get("data_files")) or files
        return path, files


def _content(path: str) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _section(content: dict, name: str) -> dict:
    return content[name] if isinstance(content.get(name), dict) else {}


def _listed(value) -> list[str] | None:
    return value and [str(part) for part in (value if isinstance(value, list) else [value])]


def _same_path(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def _check_kind(parser: CommandLine, path: str, content: dict, kind: Kind) -> None:
    """Refuse a configuration of another kind of run: one that says so, or has options that only others have."""
    if "kind" in content:
        fitting = [name for name in SECTIONS if name == content["kind"]]
    else:
        networks = content.keys() & {network for network, *_ in SECTIONS.values()}
        options = _section(content, "train").keys()
        fitting = [
            name
            for name, (network, _, train) in SECTIONS.items()
            if networks <= {network} and options <= {option.name for option in fields(train)}
        ]
    if fitting and kind not in fitting:
        scripts = " or ".join(f"train_{other}.py" for other in fitting)
        parser.error(
            f"{path} is a configuration for {scripts}, but this is train_{kind}.py: use that script, or another file."
        )


def _fitted(argv: list[str], glance: _Glance, schedule: str) -> tuple[list[str], list[tuple[str, str, dict]]]:
    """The command line with its configurations stripped of what a later one or an option has made void.

    Arguments of another schedule than the one that is named last would not be accepted; what a file says of its
    data set (BOUND_TO_DATA) does not hold for another one that is named later. Also returned are the files, their
    data sets and the fields that went with them.
    """
    kept = inspect.signature(find_schedule(schedule)).parameters
    path, data_files = glance.data()
    cleaned, left = [], []
    for before, argument in zip(["", *argv], argv):
        prefix, file = ("--config=", argument.removeprefix("--config=")) if before != "--config" else ("", argument)
        content = glance.files.get(file, {}) if before == "--config" or argument.startswith("--config=") else {}
        scheduler, data = _section(content, "scheduler"), _section(content, "data")
        try:
            foreign = inspect.signature(find_schedule(scheduler["name"])).parameters.keys() - kept.keys()
        except (KeyError, TypeError, ValueError):
            foreign = set()  # not for this function to report
        bound = {}
        if "path" in data and not _same_data(data, path, data_files):
            bound = {name: data[name] for name in BOUND_TO_DATA if name in data}
            left.append((file, str(data["path"]), bound))
        changed = dict(content)
        if foreign & scheduler.keys():
            changed["scheduler"] = {key: scheduler[key] for key in scheduler if key not in foreign}
        if bound:
            changed["data"] = {key: data[key] for key in data if key not in bound}
        if changed != content:
            argument = prefix + yaml.safe_dump(changed)
        cleaned.append(argument)
    return cleaned, left


def _same_data(section: dict, path: str, data_files: list[str] | None) -> bool:
    """Whether a data section is of the data set of this path; what a format is depends on the files too."""
    own = _listed(section.get("data_files"))
    if not _same_path(str(section["path"]), path):
        return False
    return own is None or list(map(os.path.abspath, own)) == list(map(os.path.abspath, data_files or []))


def _say_left(left: list[tuple[str, str, dict]], data: DataConfig) -> None:
    """Say aloud which fields of a file were left behind with its data set, unless they were given again."""
    for file, path, bound in left:
        defaults = {name: getattr(DataConfig, name) for name in bound}
        lost = [name for name, value in bound.items() if getattr(data, name) == defaults[name] != value]
        if lost:
            listed = ", ".join(f"data.{name} ({bound[name]})" for name in lost)
            say_note(
                f"{file} says {listed} of its data.path {path}, which is not taken over for {data.path}: give what "
                "holds there, if it is needed."
            )
