"""Callbacks: what a run does between its training steps. Each is a class with an `every` and a `run` method.

To add one, write a class, here or elsewhere, and add it to the list in cardiff/training/build.py.
"""

import math
from pathlib import Path

from diffusers import DDPMScheduler, ModelMixin

from cardiff.diffusion.timestep_density import TimestepDensity
from cardiff.distributed import device_name, on_main
from cardiff.errors import UserError
from cardiff.hub.background import BackgroundPublisher
from cardiff.hub.provenance import RunRecord, versions, without_paths, write_record
from cardiff.training import checkpoint as checkpoints
from cardiff.training.resume import TrainingState
from cardiff.training.sharding import gathered
from cardiff.training.trainer import Trainer

ADAPT_EVERY = 100
"""Steps between updates of the density of timesteps, where it follows the losses."""


class Callback:
    """Something done every so many steps, by all processes together.

    Args:
        every: Steps between runs of the callback. 0 for never.
    """

    doing: str | None = None
    """Label of the progress bar while it runs; None if the time counts as training."""
    result: str = "the output of a callback"
    """What it writes, for the warning when the disk is full."""

    def __init__(self, every: int):
        self.every = every

    def due(self, trainer: Trainer) -> bool:
        """Whether to run after this step: every `every` steps, and after the last one."""
        return self.every > 0 and (trainer.finished or trainer.global_step % self.every == 0)

    def run(self, trainer: Trainer) -> None:
        """Run the callback."""
        raise NotImplementedError

    def missing(self, trainer: Trainer) -> bool:
        """Whether the output due at the step being resumed from is missing, because the run was killed first."""
        return False

    def start(self, trainer: Trainer) -> None:
        """Called once before the first step, so that whatever cannot work fails at once and not hours later."""

    def finish(self, trainer: Trainer) -> None:
        """Called once after the last step."""


class ModelCallback(Callback):
    """A callback that samples from or measures the averaged weights.

    Args:
        every: Steps between runs, in addition to the one at the end. 0 for never.
        scheduler: The noise levels of training.
    """

    def __init__(self, every: int, scheduler: DDPMScheduler):
        super().__init__(every)
        self.scheduler = scheduler


class LossLog(Callback):
    """Logs the average loss: the one place where training waits for the device.

    Args:
        every: Steps between entries. 0: only with checkpoints.
        checkpoint: An entry precedes each of its checkpoints, so that no checkpoint is saved after a non-finite loss.
    """

    def __init__(self, every: int, checkpoint: "Checkpoint"):
        super().__init__(every)
        self.checkpoint, self.logged_step = checkpoint, 0

    def start(self, trainer: Trainer) -> None:
        """Count images from the step at which the run starts."""
        self.logged_step = trainer.start_step

    def due(self, trainer: Trainer) -> bool:
        """Also before each checkpoint."""
        return super().due(trainer) or self.checkpoint.due(trainer)

    def run(self, trainer: Trainer) -> None:
        """Write the averages since the last entry.

        Raises:
            UserError: The loss was not finite at some step since the last entry.
        """
        values, first_bad = trainer.totals.read(trainer.accelerator)
        if math.isfinite(first_bad):
            good = trainer.last_checkpoint or "none"
            raise UserError(
                f"The loss was not finite at step {int(first_bad)}; the last good checkpoint is {good}. "
                "Try a lower train.learning_rate, or bf16 instead of fp16."
            )
        values["learning_rate"] = trainer.optimizer.param_groups[0]["lr"]
        images = (trainer.global_step - self.logged_step) * trainer.config.train.batch_size
        self.logged_step = trainer.global_step
        trainer.log.write(trainer.global_step, values, images)


class AdaptTimesteps(Callback):
    """Brings the density of timesteps up to date with the losses.

    Args:
        density: The density.
    """

    def __init__(self, density: TimestepDensity):
        super().__init__(ADAPT_EVERY)
        self.density = density

    def due(self, trainer: Trainer) -> bool:
        """Not at the end, since the same run with more steps would not adapt there."""
        return trainer.global_step % self.every == 0

    def run(self, trainer: Trainer) -> None:
        """Sum the losses of all processes, which waits for the device."""
        self.density.update(lambda sums: trainer.accelerator.reduce(sums, "sum"))


class Checkpoint(Callback):
    """Writes a checkpoint, copies its model to the root of the output folder, and removes old checkpoints.

    Args:
        every: Steps between checkpoints, in addition to the one at the end. 0: only at the end.
        publisher: The background upload, if any; the checkpoint that it is uploading is not removed.
    """

    doing, result = "saving", "the checkpoint"

    def __init__(self, every: int, publisher: BackgroundPublisher | None = None):
        super().__init__(every)
        self.publisher = publisher

    def due(self, trainer: Trainer) -> bool:
        """Also when the run ends, even if it ends by a signal."""
        return trainer.done or super().due(trainer)

    def run(self, trainer: Trainer) -> None:
        """Save the run. A failure to write the last checkpoint is an error, of any other a warning."""
        self.save(trainer, must_succeed=trainer.done)

    def save(self, trainer: Trainer, must_succeed: bool) -> None:
        """Write a checkpoint; if that fails, print a warning and continue, or raise if `must_succeed`.

        Raises:
            UserError: The checkpoint or its copy in the output folder could not be written, and `must_succeed`.
        """
        # Gathered by all processes, since each may hold a shard; written by the main process.
        main = trainer.accelerator.is_main_process
        model, tensors, state = trainer.average_into_model(wanted=main), _tensors(trainer, keep=main), _state(trainer)
        root, train = trainer.output_dir / "checkpoints", trainer.config.train

        def fill(folder: Path) -> None:
            assert model is not None, "called in the main process only"
            save_model(trainer, model, folder)
            for name, part in tensors.items():
                checkpoints.save_tensors(part, folder / "training" / f"{name}.safetensors")
            state.save(folder / "training")

        def write() -> tuple[Path | None, str | None, bool]:
            """The checkpoint, what could not be written, and whether that ends the run."""
            path, step, last = None, trainer.global_step, trainer.last_checkpoint or "none"
            message = f"The checkpoint of step {step} could not be written ({{}}); the last good checkpoint is {last}."
            ends = must_succeed
            try:
                path = checkpoints.write_checkpoint(root, step, fill)
                message = f"{path} could not be copied to {trainer.output_dir} ({{}}), which keeps the previous model."
                checkpoints.publish(path, trainer.output_dir)
                message, ends = f"The checkpoints before {path} could not be removed ({{}}).", False
                in_use = self.publisher.in_use if self.publisher is not None else None
                checkpoints.prune(root, train.keep_checkpoints, train.keep_checkpoints_every, in_use)
            except OSError as error:
                return path, message.format(error), ends
            return path, None, False

        path, problem, ends_the_run = on_main(write)
        trainer.last_checkpoint = path or trainer.last_checkpoint
        if problem is None:
            return
        if ends_the_run:
            raise UserError(f"{problem} Free some disk space and run the same command again.")
        trainer.log.say(f"Warning: {problem} Training continues; free some disk space before the next checkpoint.")


class Push(Callback):
    """Publishes the newest checkpoint on the Hub, in the background.

    Args:
        checkpoint: The callback whose checkpoints are published.
        publisher: The background upload; None without --push_to_hub, and in all but the main process.
    """

    def __init__(self, checkpoint: Checkpoint, publisher: BackgroundPublisher | None):
        super().__init__(checkpoint.every)
        self.checkpoint, self.publisher = checkpoint, publisher

    def start(self, trainer: Trainer) -> None:
        """Create the repository."""
        if self.publisher is not None:
            self.publisher.open(trainer.log.say)

    def missing(self, trainer: Trainer) -> bool:
        """Always, since the upload may not have finished; pushing files that the Hub already has uploads nothing."""
        return self.publisher is not None

    def due(self, trainer: Trainer) -> bool:
        """After every step, since it also reports uploads that have ended."""
        return self.publisher is not None

    def run(self, trainer: Trainer) -> None:
        """Upload a new checkpoint, unless the run is stopping."""
        assert self.publisher is not None
        if self.checkpoint.due(trainer) and not trainer.stopping and trainer.last_checkpoint is not None:
            self.publisher.push(trainer.last_checkpoint)
        self.publisher.poll()

    def finish(self, trainer: Trainer) -> None:
        """Upload the last checkpoint of a finished run and wait for the upload."""
        if self.publisher is not None:
            self.publisher.finish(trainer.last_checkpoint if trainer.finished else None)


def save_model(trainer: Trainer, model: ModelMixin, folder: Path) -> None:
    """Save a network of the run, with a record of how it was trained."""
    trainer.export(model, folder)
    config, data = trainer.config, trainer.data
    record: RunRecord = {
        "kind": config.kind,
        "step": trainer.global_step,
        "images_seen": trainer.global_step * config.train.batch_size,
        "seconds": trainer.seconds_spent,
        "hardware": device_name(trainer.device),
        "processes": trainer.accelerator.num_processes,
        "precision": trainer.accelerator.mixed_precision,
        "versions": versions(),
        "images": None if data.rows is None else len(data.rows),
        "class_counts": data.class_counts,
        "config": without_paths(config.to_dict()),
    }
    if trainer.base_model is not None:
        record["base_model"] = trainer.base_model
    write_record(folder, record)


def _state(trainer: Trainer) -> TrainingState:
    """The JSON part of a checkpoint, which all processes gather together."""
    scaler, density = trainer.accelerator.scaler, trainer.draws.density
    return TrainingState(
        step=trainer.global_step,
        ema_step=trainer.ema.optimization_step,
        stream=trainer.stream_state,
        scaler=None if scaler is None else scaler.state_dict(),
        class_names=trainer.data.class_names,
        conditional=trainer.config.labelled,
        config=without_paths(trainer.config.to_dict()),
        seconds=trainer.seconds_spent,
        data=trainer.data.digests,
        timesteps=None if density is None else density.state(lambda sums: trainer.accelerator.reduce(sums, "sum")),
        base_model=trainer.base_model,
    )


def _tensors(trainer: Trainer, keep: bool) -> dict[str, dict]:
    """Full (unsharded) tensors by file and name; the averaged weights are saved with the model.

    Args:
        trainer: The run.
        keep: Whether this process writes them; the others only take part in the gathering.
    """
    states, parameters = trainer.optimizer.optimizer.state, trainer.named_parameters()
    moments = ((f"{name}/{key}", value) for name, p in parameters for key, value in states[p].items())
    return {
        trainer.config.network_name: dict(gathered(parameters, keep)),
        "optimizer": dict(gathered(moments, keep)),
        **({"averages": dict(gathered(trainer.named_averages(), keep))} if trainer.averages else {}),
    }
