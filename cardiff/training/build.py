"""Builds a training run from its configuration: data, schedule, network, loss, draws, trainer, callbacks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from diffusers import DDPMScheduler, ModelMixin

from cardiff.config.run import RunConfig
from cardiff.config.schedule import make_schedule
from cardiff.config.schedules_by_name import alphas_cumprod_of, section_of
from cardiff.config.sections import ClassifierTrainConfig, DiffusionTrainConfig
from cardiff.devices import training_precision
from cardiff.diffusion.draws import BatchDraws
from cardiff.diffusion.graft import graft
from cardiff.diffusion.levels import log_snr_of, nearest_timesteps
from cardiff.diffusion.loss import ClassificationLoss, DenoisingLoss, loss_weights, memory_format
from cardiff.diffusion.networks import build_classifier, build_pipeline, build_unet, null_class
from cardiff.diffusion.timestep_density import TimestepDensity
from cardiff.distributed import TIMEOUT, on_main, this_process, wait_for_everyone
from cardiff.errors import UserError
from cardiff.files import write_text
from cardiff.hub.background import BackgroundPublisher
from cardiff.hub.read_source import read_source
from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.outputs import check_folder
from cardiff.training.callbacks import AdaptTimesteps, Callback, Checkpoint, LossLog, Push
from cardiff.training.classifier_report import ClassifierReport
from cardiff.training.data import open_training_data
from cardiff.training.resume import resume
from cardiff.training.samples import Evaluation, SampleGrid
from cardiff.training.snapshots import AverageSnapshots
from cardiff.training.trainer import Loss, Trainer


def build(config: RunConfig) -> Trainer:
    """Build a run, ready for its next step: resumed from its newest intact checkpoint, or at step 0.

    Raises:
        UserError: The run cannot use the data, the configuration or the checkpoint.
    """
    # Data, and the noise levels ᾱ_t of the schedule.
    check_folder("--output_dir", config.output_dir)
    accelerator = build_accelerator(config)
    data = open_training_data(config, accelerator)
    scheduler = make_schedule(config.scheduler).to_stock()

    # The network, and what it is trained to do.
    train, names, form = config.train, data.class_names, memory_format(config)
    model: ModelMixin
    loss: Loss
    density: TimestepDensity | None = None
    visited: np.ndarray | None = None
    if not isinstance(train, DiffusionTrainConfig):
        model = build_classifier(config, scheduler, names)
        loss = ClassificationLoss(scheduler, form)
    else:
        model = build_unet(config, len(names) if config.labelled else None)
        weights = loss_weights(scheduler, train.loss_weighting, train.min_snr_gamma).to(accelerator.device)
        if train.timestep_sampling != "uniform":
            density = TimestepDensity(train.timestep_sampling, scheduler, weights)
            weights = density.loss_weights
        loss = DenoisingLoss(scheduler, weights, null_class(model), form)
        if train.timesteps_from is not None:
            other = section_of(train.timesteps_from, allow_code=True)
            visited = nearest_timesteps(scheduler, log_snr_of(alphas_cumprod_of(other)))
        if train.gradient_checkpointing:
            model.enable_gradient_checkpointing()
    source = None if config.init_from is None else read_source(config.init_from, config.init_revision)
    if source is not None:
        notes = graft(model, source, names)
    draws = BatchDraws(
        seed=train.seed,
        batch_size=train.batch_size,
        positions=data.plan.positions,
        num_train_timesteps=scheduler.config.num_train_timesteps,
        horizontal_flip=config.data.horizontal_flip,
        label_dropout=getattr(train, "label_dropout", 0.0),
        density=density,
        visited=visited,
    )

    # The trainer, resumed from the newest checkpoint.
    trainer = Trainer(config, accelerator, data, model, loss, draws, exporter(config, scheduler, names))
    trainer.base_model = None if source is None else source.base
    callbacks = build_callbacks(config, trainer, scheduler)  # raises if a push could not succeed
    trainer.own_output_dir()
    resume(trainer)
    if source is not None and trainer.global_step == 0:
        accelerator.print(" ".join([f"Starting from {source.name}.", *notes]))
    elif source is not None and trainer.base_model != source.base:
        accelerator.print(f"--init_from {source.name} is not used: the run goes on, and did not start from it.")
    write_config(config, accelerator)
    trainer.start(callbacks)
    return trainer


def build_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate's processes, device and precision for a run.

    Raises:
        UserError: A tracker is not installed, or the processes are not connected.
    """
    train, output_dir = config.train, Path(config.output_dir)
    device = this_process().device
    accelerator = Accelerator(
        mixed_precision=on_main(lambda: training_precision(train.mixed_precision, device)),
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        log_with=_trackers(train.trackers),
        project_config=ProjectConfiguration(output_dir, logging_dir=output_dir / "logs"),
        kwargs_handlers=[
            # Gradients lie where they are exchanged; the networks' buffers are constants.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = train.allow_tf32
    return accelerator


def exporter(
    config: RunConfig, scheduler: DDPMScheduler, class_names: Sequence[str]
) -> Callable[[ModelMixin, Path], None]:
    """A function that saves the run's network to a folder from which diffusers can load it."""

    def export(model: ModelMixin, folder: Path) -> None:
        if config.kind == "classifier":
            save_classifier(model, scheduler, folder)
        else:
            save_pipeline(build_pipeline(model, scheduler, class_names), folder)

    return export


def build_callbacks(config: RunConfig, trainer: Trainer, scheduler: DDPMScheduler) -> Sequence[Callback]:
    """The callbacks of a run, in the order in which they run.

    Raises:
        UserError: The push cannot succeed: no token, or an invalid repository name.
    """
    train, publisher = config.train, None
    if config.hub.push_to_hub and trainer.accelerator.is_main_process:
        publisher = BackgroundPublisher(trainer.output_dir, config.hub)
    checkpoint = Checkpoint(train.checkpoint_every, publisher)
    log = LossLog(train.log_every, checkpoint)
    shown: list[Callback]
    if isinstance(train, ClassifierTrainConfig):
        shown = [ClassifierReport(train.report_every, scheduler)]
    else:
        assert isinstance(train, DiffusionTrainConfig)
        shown = [SampleGrid(train.sample_every, scheduler), Evaluation(train.evaluate_every, scheduler)]
    adapt = [] if trainer.draws.density is None else [AdaptTimesteps(trainer.draws.density)]
    return [log, *adapt, AverageSnapshots(trainer), checkpoint, *shown, Push(checkpoint, publisher)]


def write_config(config: RunConfig, accelerator: Accelerator) -> None:
    """Write the complete configuration to config.yaml in the output folder."""
    if accelerator.is_main_process:
        start = {"init_from": config.init_from, "init_revision": config.init_revision}
        head = {"kind": config.kind, **{name: value for name, value in start.items() if value is not None}}
        content = yaml.safe_dump({**head, **config.to_dict()}, sort_keys=False)
        write_text(Path(config.output_dir, "config.yaml"), content)
    wait_for_everyone()


def _trackers(names: list[str]) -> list[str] | None:
    available = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in available:
            raise UserError(f"train.trackers lists {name!r}, which is not installed: choose from {available}.")
    return names or None
