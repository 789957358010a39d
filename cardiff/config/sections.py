"""The sections of a run's configuration, as documented dataclasses with their checks.

`data`, `train` and the publishing options are here; `unet` and `classifier` are in network.py, and the arguments in
`scheduler` depend on the schedule (schedule.py). Nothing here needs torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from cardiff.config.limits import check_limits, limited, option
from cardiff.errors import UserError

_REPOSITORY = re.compile(r"(?!.*(--|\.\.))([\w.-]{1,96}/)?\w([\w.-]{0,94}\w)?", re.ASCII)


@dataclass
class DataConfig:
    """Where the images come from and how they are prepared before training."""

    path: str = "parquet"
    """Hub data set, folder of images, Stanford Cars in its original layout, or a format: parquet, arrow,
    imagefolder."""
    name: str | None = option(None, of_data_set=True)
    """Configuration (subset) of a Hub data set that has several."""
    data_files: str | list[str] | None = option(None, of_data_set=True)
    """File, glob pattern, or list of them to read when `path` is a format."""
    revision: str | None = option(None, of_data_set=True)
    """Commit, tag or branch of a Hub data set."""
    split: str = option("train", of_data_set=True)
    """Split to train on."""
    image_column: str = option("image", of_data_set=True)
    """Column that holds the images."""
    label_column: str = option("label", of_data_set=True)
    """Column that holds the class labels."""
    first_label: int = option(0, least=0, of_data_set=True)
    """Number of the first class in an integer label column: 1 if labels count from 1."""
    resolution: int = option(32, least=1, on_resume="refuse")
    """Height and width in pixels; also the network's sample_size."""
    channels: Literal[1, 3] = option(3, on_resume="refuse")
    """1 for greyscale, 3 for RGB; also the network's input and output channels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How images are made square: centre crop, pad with black, or stretch."""
    upscale: bool = False
    """Enlarge images smaller than the resolution instead of refusing them."""
    crop_to_box: bool = False
    """Crop each image to its bounding box first."""
    box_column: str = option("bbox", of_data_set=True)
    """Column of bounding boxes (x1, y1, x2, y2) in pixels, read when crop_to_box is set."""
    box_margin: float = limited(0.1, least=0)
    """Margin around the box on each side, as a fraction of the box's width and height."""
    horizontal_flip: bool = True
    """Mirror each training image with probability ½."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with unreadable images: stop with an error, or skip, count and list them."""
    streaming: bool = False
    """Read through `datasets` streaming and decode on the fly, for data sets that do not fit on the disk."""
    shuffle_buffer: int = limited(10000, least=1)
    """Images in each shuffled block of a stream."""
    cache_dir: str | None = None
    """Folder of the decoded image stores (default: $CARDIFF_CACHE, or ~/.cache/cardiff if that is not set)."""
    num_workers: int = option(0, least=0, on_resume="ignore")
    """Processes per GPU that prefetch batches; 0 loads them in the training process."""
    license: str | None = option(None, of_data_set=True, on_resume="ignore")
    """Licence of the images, for the model card."""

    def check(self) -> None:
        """Check the ranges of the numbers.

        Raises:
            UserError: A number is out of range.
        """
        check_limits(self, "data.")


@dataclass
class TrainConfig:
    """Length, optimizer, precision and bookkeeping of any training run."""

    epochs: float = option(100, above=0, on_resume="ignore")
    """Passes over the data; ignored if max_steps is given."""
    max_steps: int | None = option(None, least=1, on_resume="ignore")
    """Optimizer steps to train for, instead of epochs."""
    batch_size: int = limited(128, above=0)
    """Images per optimizer step, over all processes and accumulation steps together."""
    gradient_accumulation_steps: int = limited(1, above=0)
    """Parts into which each process splits its share of the batch, to save memory."""
    optimizer: Literal["adamw", "muon"] = option("adamw", on_resume="refuse")
    """AdamW, or Muon for the convolutions and linear layers with AdamW for everything else."""
    learning_rate: float = limited(1e-4, above=0)
    """Peak learning rate."""
    lr_schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "warmup_stable_decay"] = (
        "constant_with_warmup"
    )
    """Learning rate over the run; linear, cosine and warmup_stable_decay end at 0."""
    lr_warmup_steps: int = limited(500, least=0)
    """Optimizer steps over which the learning rate rises linearly from 0."""
    lr_decay_fraction: float = limited(0.2, above=0, most=1)
    """Part of the run over which warmup_stable_decay lowers the learning rate."""
    adam_beta2: float = limited(0.999, least=0, below=1)
    """Decay of AdamW's average of squared gradients."""
    weight_decay: float = limited(0.0, least=0)
    """Decoupled weight decay."""
    max_grad_norm: float = limited(1.0, above=0, infinite=True)
    """Gradients are clipped to this norm; .inf disables clipping."""
    ema_decay: float = limited(0.9999, least=0, most=1)
    """Maximum decay of the weight average; at step n it is at most (1+n)/(10+n), so short runs average less."""
    ema_widths: list[float] = option([], above=0, most=0.28, on_resume="refuse")
    """Also keep averages of these widths, in parts of the run's length, such as [0.05,0.10]: average.py makes any
    width from their snapshots after training (arXiv 2312.02696). They do not change what is published."""
    ema_snapshots: int = option(20, least=1, on_resume="ignore")
    """Snapshots of these averages over the run, each of the size of the weights for each width."""
    ema_snapshot_precision: Literal["float32", "fp16"] = option("float32", on_resume="ignore")
    """Precision of the snapshots."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = option("auto", on_resume="ignore")
    """Precision of the forward pass. auto: as accelerate is launched, or else bf16 where the hardware multiplies in it
    (NVIDIA GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), and float32 elsewhere. null: accelerate's own."""
    compile: bool | Literal["auto", "reduce-overhead"] = option("auto", on_resume="ignore")
    """Compile the network with torch.compile; reduce-overhead also records a CUDA graph, for few images per GPU.
    auto: in runs of 1,000 steps or more on a GPU, with a graph if the images are few."""
    allow_tf32: bool = option(True, on_resume="ignore")
    """Let NVIDIA GPUs round float32 products to TF32 where mixed_precision is no."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory format."""
    seed: int = limited(0, least=0)
    """Seed of the initial weights, data order, noise, timesteps, flips, dropped labels and validation split."""
    log_every: int = option(50, least=0, on_resume="ignore")
    """Steps between entries in the log; also how often the loss is checked for NaN. 0: only with checkpoints."""
    checkpoint_every: int = option(5000, least=0, on_resume="ignore")
    """Steps between checkpoints, in addition to the one at the end. 0: only at the end."""
    keep_checkpoints: int = option(2, above=0, on_resume="ignore")
    """Number of newest checkpoints to keep."""
    keep_checkpoints_every: int = option(0, least=0, on_resume="ignore")
    """Also keep every checkpoint whose step is a multiple of this. 0 for none."""
    trackers: list[str] = option(["tensorboard"], on_resume="ignore")
    """Accelerate's trackers: tensorboard, wandb, … logs/metrics.jsonl is always written."""

    def check(self, data: DataConfig, num_train_timesteps: int) -> None:
        """Check the ranges of the numbers, and that the options fit the data and the schedule.

        Raises:
            UserError: A check fails; the message names the option and the remedy.
        """
        check_limits(self, "train.")
        if self.compile == "reduce-overhead" and self.gradient_accumulation_steps > 1:
            raise UserError(
                "train.compile is reduce-overhead, whose CUDA graph cannot accumulate gradients: set "
                "train.gradient_accumulation_steps to 1, or train.compile to true."
            )


@dataclass
class DiffusionTrainConfig(TrainConfig):
    """Length, optimizer, precision, objective, sample grids and bookkeeping of the training run."""

    loss_weighting: Literal["uniform", "min_snr", "schedule_invariant"] = "uniform"
    """Loss weights over timesteps: uniform, min-SNR (arXiv 2303.09556), or independent of the schedule."""
    min_snr_gamma: float = limited(5.0, above=0)
    """Signal-to-noise ratio at which min-SNR is capped."""
    timestep_sampling: Literal["uniform", "loss", "information"] = "uniform"
    """How often each timestep is trained on: equally often; more often where the loss is large, divided by how often,
    which leaves the objective as it is (arXiv 2102.09672); or in proportion to the information on the image that is
    lost there (arXiv 2602.18647). The last two follow the losses during training."""
    timesteps_from: str | None = None
    """Train as often at each noise level as another schedule would, at the nearest timesteps: its name, a YAML file
    with a `scheduler`, or FILE.py:FUNCTION. The model's own timesteps and levels stay."""
    gradient_checkpointing: bool = option(False, on_resume="ignore")
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    sample_every: int = option(5000, least=0, on_resume="ignore")
    """Steps between sample grids from the averaged weights, in addition to the one at the end. 0 for never."""
    sample_images: int = option(64, above=0, on_resume="ignore")
    """Images in a sample grid."""
    sample_steps: int = option(25, above=0, on_resume="ignore")
    """DPM-Solver++ steps for sample grids and evaluations."""
    evaluate_every: int = option(0, least=0, on_resume="ignore")
    """Steps between small evaluations of the averaged weights against the data, in addition to the one at the end;
    the best model so far is kept in best/. 0 for never."""
    evaluate_images: int = option(1000, least=2, on_resume="ignore")
    """Images drawn for an evaluation, with sample_steps steps and without guidance."""
    evaluate_network: str = option("pixels", on_resume="ignore")
    """Feature network of the Fréchet distance, as for --network of evaluate.py."""

    def check(self, data: DataConfig, num_train_timesteps: int) -> None:
        """Check any run's options, that evaluation is possible, and that there are no more steps than timesteps."""
        super().check(data, num_train_timesteps)
        if self.timesteps_from is not None and self.timestep_sampling != "uniform":
            raise UserError(
                f"train.timesteps_from and train.timestep_sampling {self.timestep_sampling} both say how often each "
                "timestep is trained on: leave one out."
            )
        if self.timesteps_from is not None and self.loss_weighting == "schedule_invariant":
            raise UserError(
                "train.timesteps_from says how often each noise level is trained on, and train.loss_weighting "
                "schedule_invariant divides by that: leave one out."
            )
        if self.evaluate_every and data.streaming:
            raise UserError(
                "train.evaluate_every is not supported with data.streaming: set train.evaluate_every to 0, or "
                "data.streaming to false."
            )
        if self.sample_steps > num_train_timesteps and (self.sample_every or self.evaluate_every):
            drawing = "sample_every" if self.sample_every else "evaluate_every"
            raise UserError(
                f"train.sample_steps is {self.sample_steps}, but the schedule has {num_train_timesteps} timesteps "
                f"(scheduler.num_train_timesteps): lower it, or set train.{drawing} to 0."
            )


@dataclass
class ConditionalTrainConfig(DiffusionTrainConfig):
    """Length, optimizer, precision, objective, conditioning, sample grids and bookkeeping of the training run."""

    label_dropout: float = limited(0.1, least=0, most=1)
    """Probability of replacing the label of an image by the null class."""
    sample_guidance_scale: float = option(2.0, on_resume="ignore")
    """Guidance scale of the sample grids."""


@dataclass
class ClassifierTrainConfig(TrainConfig):
    """Length, optimizer, precision, measuring and bookkeeping of a classifier's training run."""

    weight_decay: float = limited(0.05, least=0)
    """Decoupled weight decay; the value of Dhariwal and Nichol (arXiv 2105.05233)."""
    validation_fraction: float = option(0.1, least=0, below=1, on_resume="refuse")
    """Fraction of the images that are set aside to measure the accuracy. 0 for none."""
    report_every: int = option(5000, least=0, on_resume="ignore")
    """Steps between reports on the validation images, in addition to the one at the end. 0 for never."""

    def check(self, data: DataConfig, num_train_timesteps: int) -> None:
        """Check any run's options, and that there is no validation split of a stream."""
        super().check(data, num_train_timesteps)
        if self.validation_fraction and data.streaming:
            raise UserError(
                f"train.validation_fraction is {self.validation_fraction}, which is not supported with "
                "data.streaming: set train.validation_fraction to 0, or data.streaming to false."
            )


@dataclass(kw_only=True)
class HubTarget:
    """Where to publish a model on the Hub."""

    hub_model_id: str | None = None
    """Repository, NAME or OWNER/NAME (default: the last part of the folder's name)."""
    hub_private: bool = False
    """Create the repository as private; an existing public one is refused."""
    hub_revision: str | None = None
    """Branch to push to, created if need be (default: main)."""
    hub_license: str | None = None
    """Licence of the weights, for the model card: mit, cc-by-nc-4.0, …"""
    hub_resume_id: str | None = None
    """Private repository for the newest checkpoint with its optimizer state, for --resume_from."""

    def check(self) -> None:
        """Check the names of the repositories.

        Raises:
            UserError: A name is invalid, or both are the same.
        """
        for name in ("hub_model_id", "hub_resume_id", "space"):
            value = getattr(self, name, None)  # only publish.py has the last one
            if value is not None and not _REPOSITORY.fullmatch(value):
                raise UserError(
                    f"--{name} {value} is not a valid repository name: give NAME or OWNER/NAME of letters, digits, "
                    "'-', '_' and '.'."
                )
        if self.hub_resume_id is not None and self.hub_resume_id == self.hub_model_id:
            raise UserError(
                "--hub_resume_id is the same repository as --hub_model_id, which others may read: choose another one."
            )


@dataclass(kw_only=True)
class HubOptions(HubTarget):
    """Whether and where to publish a run while it trains."""

    push_to_hub: bool = False
    """Push the model with its card and samples at every checkpoint and at the end, in the background. The token comes
    from `hf auth login` or HF_TOKEN."""

    def check(self) -> None:
        """Check the names, and that no other option of publishing is given without --push_to_hub."""
        super().check()
        given = [option.name for option in fields(HubTarget) if getattr(self, option.name) != option.default]
        if given and not self.push_to_hub:
            raise UserError(f"--{given[0]} is given without --push_to_hub: add it, or leave both out.")
