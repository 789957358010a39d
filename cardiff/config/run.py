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
from typing import Literal, NoReturn

import yaml

from cardiff.cli import CommandLine, say_note
from cardiff.config.limits import check_limits, limited
from cardiff.errors import UserError, user_errors
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
    first_label: int = limited(0, least=0)
    """Number of the first class in an integer label column: 1 where labels count from 1."""
    resolution: int = limited(32, least=1)
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
    box_margin: float = limited(0.1, least=0)
    """Margin kept around the box on each side, as a share of the box's width and height."""
    horizontal_flip: bool = True
    """Mirror each training image with probability one half."""
    on_error: Literal["raise", "skip"] = "raise"
    """What an unreadable image does: stop the run, or be left out, counted and listed."""
    streaming: bool = False
    """Read through `datasets` streaming and decode on the fly, for sets that do not fit on the disk."""
    shuffle_buffer: int = limited(10000, least=1)
    """Images in each shuffled block of a stream."""
    cache_dir: str | None = None
    """Folder of the decoded image stores (default: $CARDIFF_CACHE, else ~/.cache/cardiff)."""
    num_workers: int = limited(0, least=0)
    """Processes per GPU that fetch batches ahead; 0 fetches in the training process."""
    license: str | None = None
    """Licence of the images, for the model card."""


BOUND_TO_DATA = ("data_files", "name", "revision", "split", "image_column", "label_column", "first_label")
BOUND_TO_DATA += ("box_column", "license")
"""What a data section says of its one data set; the other fields are what is done to any images."""


@dataclass
class NetworkConfig:
    """The way down, which a UNet and a classifier have in common."""

    block_out_channels: list[int] = limited([64, 128, 256, 256], least=1)
    """Channels of each resolution, from the full size down; the length is the number of resolutions."""
    layers_per_block: int = limited(2, least=1)
    """ResNet blocks per resolution on the way down (a UNet has one more on the way up)."""
    down_block_types: list[str] = field(
        default_factory=lambda: ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    )
    """One per resolution: DownBlock2D, or AttnDownBlock2D with self-attention."""
    attention_head_dim: int | None = limited(64, least=1)
    """Channels per attention head, also in a classifier's pooling; null for one head."""
    dropout: float = limited(0.0, least=0, below=1)
    """Dropout in every ResNet block."""
    norm_num_groups: int = limited(32, least=1)
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

    epochs: float = limited(100, above=0)
    """Passes over the data; ignored when max_steps is given."""
    max_steps: int | None = limited(None, least=1)
    """Optimizer steps to train for, instead of epochs."""
    batch_size: int = limited(128, above=0)
    """Images per optimizer step over all processes and accumulation steps together."""
    gradient_accumulation_steps: int = limited(1, above=0)
    """Parts each process splits its share of the batch into, to fit the memory."""
    learning_rate: float = limited(1e-4, above=0)
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate over the run, by diffusers' get_scheduler."""
    lr_warmup_steps: int = limited(500, least=0)
    """Optimizer steps over which the learning rate rises from 0."""
    weight_decay: float = limited(0.0, least=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = limited(1.0, above=0, infinite=True)
    """Gradients are scaled down to this norm; .inf leaves them as they are."""
    ema_decay: float = limited(0.9999, least=0, most=1)
    """Largest decay of the weight average; at step n it is at most (1+n)/(10+n), so short runs average less."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the forward pass; null leaves it to accelerate's own configuration."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory format."""
    seed: int = limited(0, least=0)
    """Seed of the weights and of every draw: data order, noise, timesteps, flips, dropped labels, held-out images."""
    log_every: int = limited(50, least=0)
    """Steps between entries in the log; also how often the loss is checked for NaN. 0: only with checkpoints."""
    checkpoint_every: int = limited(5000, least=0)
    """Steps between checkpoints, besides the one at the end. 0 for never."""
    keep_checkpoints: int = limited(2, above=0)
    """Newest checkpoints to keep."""
    keep_checkpoints_every: int = limited(0, least=0)
    """Keep also every checkpoint whose step is a multiple of this. 0 for none."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Accelerate trackers: tensorboard, wandb, … logs/metrics.jsonl is always written."""


@dataclass
class DiffusionTrainConfig(TrainConfig):
    """Length, optimizer, precision, objective, sample grids and bookkeeping of the training run."""

    loss_weighting: Literal["uniform", "min_snr", "schedule_invariant"] = "uniform"
    """Weights of the loss over timesteps: none, min-SNR (arXiv 2303.09556), or those that divide the schedule out."""
    min_snr_gamma: float = limited(5.0, above=0)
    """Where min-SNR caps the signal-to-noise ratio."""
    sample_every: int = limited(5000, least=0)
    """Steps between sample grids from the averaged weights, besides the one at the end. 0 for never."""
    sample_images: int = limited(64, above=0)
    """Images in a sample grid."""
    sample_steps: int = limited(25, above=0)
    """DPM-Solver++ steps of a sample grid."""
    evaluate_every: int = limited(0, least=0)
    """Steps between small evaluations of the averaged weights against the data, besides the one at the end; the best
    model so far is kept in best/. 0 for never."""
    evaluate_images: int = limited(1000, least=2)
    """Images drawn for an evaluation, by sample_steps steps without guidance."""
    evaluate_network: str = "pixels"
    """Network whose Fréchet distance is measured, as --network of evaluate.py."""


@dataclass
class ConditionalTrainConfig(DiffusionTrainConfig):
    """Length, optimizer, precision, objective, conditioning, sample grids and bookkeeping of the training run."""

    label_dropout: float = limited(0.1, least=0, most=1)
    """Share of the labels replaced by the null class, drawn per image."""
    sample_guidance_scale: float = 2.0
    """Guidance scale of the sample grids."""


@dataclass
class ClassifierTrainConfig(TrainConfig):
    """Length, optimizer, precision, measuring and bookkeeping of a classifier's training run."""

    weight_decay: float = limited(0.05, least=0)
    """Decoupled weight decay of AdamW; the value of Dhariwal and Nichol (arXiv 2105.05233)."""
    validation_fraction: float = limited(0.1, least=0, below=1)
    """Share of the images that are kept from training and measured. 0 measures nothing."""
    report_every: int = limited(5000, least=0)
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
            UserError: In one sentence.
        """
        for name in ("hub_model_id", "hub_resume_id"):
            value = getattr(self, name)
            if value is not None and not _REPOSITORY.fullmatch(value):
                raise UserError(
                    f"--{name} {value} cannot be a repository of the Hub: give NAME or OWNER/NAME of letters, digits, "
                    "'-', '_' and '.'."
                )
        if self.hub_resume_id is not None and self.hub_resume_id == self.hub_model_id:
            raise UserError("--hub_resume_id must be another repository than --hub_model_id, which others may read.")


@dataclass(kw_only=True)
class HubOptions(HubTarget):
    """Whether and where a run is published while it trains."""

    push_to_hub: bool = False
    """Push the model with its card and samples at every checkpoint and at the end, in the background. The token is
    that of `hf auth login` or HF_TOKEN."""


BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
}
"""Kinds of blocks on the way down and on the way up."""

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
    with user_errors():
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
        _check_sections(glance.files, ("data", network_name, "scheduler", "train"))
    except ValueError as error:
        parser.error(str(error))
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
        _check(config)
    except ValueError as error:
        parser.error(str(error))
    _say_left(left, config.data)
    return config


class _FileReader(CommandLine):
    """A parser of files, whose errors are for the caller to place."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(self._one_sentence(str(message))) from ex


def data_section(file: Path) -> DataConfig:
    """The data section of a YAML file, read as a training script does; what else a run's file has is passed over.

    Raises:
        UserError: No such file, without a data section, or with one that cannot be used.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML file ({' '.join(str(error).split())}): see configs/.") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise UserError(f"{file} has no data section: see configs/ for examples.")
    parser = _FileReader("")
    parser.add_argument("--config", action="config")
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument("--kind", type=str)
    for section in ("unet", "classifier", "scheduler", "train"):
        parser.add_argument(f"--{section}", type=dict | None)
    try:
        data = DataConfig(**parser.parse_args(["--config", str(file)]).data.as_dict())
        check_limits(data, "data.")
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    return data


def _check(config: RunConfig) -> None:
    """Refuse numbers without meaning and sections that do not fit together, before any image is decoded."""
    for section, options in (("train", config.train), ("data", config.data), (config.network_name, config.network)):
        check_limits(options, f"{section}.")
    for check in (
        _check_hub,
        _check_blocks,
        _check_resolution,
        _check_groups,
        _check_heads,
        _check_held_out,
        _check_evaluation,
        _check_schedule,
        _check_sample_steps,
    ):
        check(config)


def _check_hub(config: RunConfig) -> None:
    """Refuse names that cannot be repositories, and a target without the wish to push to it."""
    hub = config.hub
    hub.check()
    if hub.push_to_hub:
        return
    for name in ("hub_model_id", "hub_private", "hub_revision", "hub_license", "hub_resume_id"):
        if getattr(hub, name):
            raise UserError(f"--{name} is given without --push_to_hub: add it, or leave both out.")


def _check_blocks(config: RunConfig) -> None:
    """Every resolution has its channels and its kinds of blocks."""
    name, network = config.network_name, config.network
    levels = len(network.block_out_channels)
    if levels == 0:
        raise UserError(f"{name}.block_out_channels is empty: give the channels of each resolution.")
    for field_name, known in BLOCKS.items():
        blocks = getattr(network, field_name, None)  # a classifier has no way up
        if blocks is None:
            continue
        if len(blocks) != levels:
            raise UserError(
                f"{name}.{field_name} lists {len(blocks)} blocks and {name}.block_out_channels {levels}: "
                "give one for each resolution."
            )
        unknown = [block for block in blocks if block not in known]
        if unknown:
            raise UserError(f"{name}.{field_name} names {unknown[0]!r}: choose from {' and '.join(known)}.")


def _check_resolution(config: RunConfig) -> None:
    """The image can be halved as often as the network does."""
    resolution, levels = config.data.resolution, len(config.network.block_out_channels)
    if resolution % 2 ** (levels - 1):
        raise UserError(
            f"data.resolution is {resolution}, but the network's {levels} resolutions halve it {levels - 1} times: "
            f"make it a multiple of {2 ** (levels - 1)} or shorten {config.network_name}.block_out_channels."
        )


def _check_groups(config: RunConfig) -> None:
    """Every GroupNorm can divide its channels."""
    name, network = config.network_name, config.network
    odd = [channels for channels in network.block_out_channels if channels % network.norm_num_groups]
    if odd:
        raise UserError(
            f"{name}.norm_num_groups is {network.norm_num_groups}, which does not divide the {odd[0]} of "
            f"{name}.block_out_channels: give a number that divides each of them."
        )


def _check_heads(config: RunConfig) -> None:
    """Where there is attention a head has no more channels than there are, and a classifier's divide them."""
    name, network = config.network_name, config.network
    width, channels = network.attention_head_dim, network.block_out_channels
    if width is None:  # one head
        return
    kinds = zip(network.down_block_types, reversed(getattr(network, "up_block_types", network.down_block_types[::-1])))
    attending = [count for count, pair in zip(channels, kinds) if any(kind.startswith("Attn") for kind in pair)]
    # The middle block attends, and so does the pooling of a classifier.
    attending += [channels[-1]] if getattr(network, "add_attention", True) else []
    remedy = f"give {name}.attention_head_dim a smaller number, or null for one head."
    if attending and width > min(attending):
        raise UserError(
            f"{name}.attention_head_dim is {width}, but a block with attention has only {min(attending)} channels: "
            f"{remedy}"
        )
    if config.kind == "classifier" and channels[-1] % width:
        raise UserError(
            f"{name}.attention_head_dim is {width}, which does not divide the last of {name}.block_out_channels, "
            f"{channels[-1]}: give a number that does, or null for one head."
        )


def _check_held_out(config: RunConfig) -> None:
    """Refuse a share of images that cannot be set aside."""
    held_out = getattr(config.train, "validation_fraction", 0.0)
    if held_out and config.data.streaming:
        raise UserError(
            f"train.validation_fraction is {held_out}, but images can be set aside only from a store: give "
            "--train.validation_fraction 0 or leave data.streaming off."
        )


def _check_evaluation(config: RunConfig) -> None:
    """Refuse an evaluation that could not be made, before the training that leads to it."""
    if getattr(config.train, "evaluate_every", 0) and config.data.streaming:
        raise UserError(
            "train.evaluate_every compares with the images of a store: give --train.evaluate_every 0 or leave "
            "data.streaming off."
        )


def _check_schedule(config: RunConfig) -> None:
    """The schedule's own checks of its arguments."""
    make_schedule(config.scheduler)


def _check_sample_steps(config: RunConfig) -> None:
    """Samples that are drawn on the way need no more steps than there are timesteps."""
    train, total = config.train, config.scheduler["num_train_timesteps"]
    wanted = [name for name in ("sample_every", "evaluate_every") if getattr(train, name, 0)]
    if wanted and train.sample_steps > total:
        raise UserError(
            f"train.sample_steps is {train.sample_steps}, but the schedule has {total} timesteps "
            f"(scheduler.num_train_timesteps): lower it, or draw nothing on the way with train.{wanted[0]} 0."
        )


def _check_sections(files: dict[str, dict], names: Sequence[str]) -> None:
    """Refuse configurations with a section that has nothing in it, or one value instead of options."""
    for path, content in files.items():
        for name in names:
            section = content.get(name, {})
            if section is None:
                raise UserError(f"The section {name} of {path} is empty: give its options, or leave it out.")
            if not isinstance(section, dict):
                raise UserError(f"{name} of {path} is {section!r}, but must be a section of options.")
        if _section(content, "scheduler").get("name", "") is None:
            raise UserError(f"scheduler.name of {path} is empty: choose one of {', '.join(SCHEDULES)}.")


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
