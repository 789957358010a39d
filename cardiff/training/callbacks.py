"""What is done between the steps of a run: each thing is a callback, a class with an `every` and one method.

A new one needs a class here or elsewhere and a place in the list that cardiff/training/build.py hands to the trainer.
"""

import math
from pathlib import Path

from accelerate.utils import broadcast_object_list
from diffusers import DDPMScheduler, ModelMixin

from cardiff.distributed import device_name
from cardiff.errors import UserError
from cardiff.hub.background import BackgroundPublisher
from cardiff.hub.provenance import RunRecord, versions, without_paths, write_record
from cardiff.training import checkpoint as checkpoints
from cardiff.training.resume import TrainingState
from cardiff.training.sharding import whole
from cardiff.training.trainer import Trainer


class Callback:
    """Something that is done every so many steps, by all processes together.

    Args:
        every: Steps between two times. 0 for never.
    """

    doing: str | None = None
    """What the progress bar calls it meanwhile; None of what is part of training."""
    result: str = "what was due"
    """What it writes, as a warning names it when the disk is full."""

    def __init__(self, every: int):
        self.every = every

    def due(self, trainer: Trainer) -> bool:
        """Whether it is to be done after this step: every so often, and after the last step."""
        return self.every > 0 and (trainer.finished or trainer.global_step % self.every == 0)

    def run(self, trainer: Trainer) -> None:
        """Do it."""
        raise NotImplementedError

    def missing(self, trainer: Trainer) -> bool:
        """Whether what was due at the step that a run resumes from is not there, since it was killed before that."""
        return False

    def start(self, trainer: Trainer) -> None:
        """Called once before the first step: what cannot be had is refused here and not after hours."""

    def finish(self, trainer: Trainer) -> None:
        """Called once after the last step."""


class ModelCallback(Callback):
    """A callback that shows or measures the averaged weights.

    Args:
        every: Steps between two times, besides the one at the end. 0 for never.
        scheduler: The noise levels of training.
    """

    def __init__(self, every: int, scheduler: DDPMScheduler):
        super().__init__(every)
        self.scheduler = scheduler


class LossLog(Callback):
    """Reads the totals of the loss: the one place where training waits for the device.

    Args:
        every: Steps between entries. 0: only with checkpoints.
        checkpoint: Before each of which there is an entry, since it is also where the loss is checked.
    """

    def __init__(self, every: int, checkpoint: "Checkpoint"):
        super().__init__(every)
        self.checkpoint, self.logged_step = checkpoint, 0

    def start(self, trainer: Trainer) -> None:
        """Count from where the run stands."""
        self.logged_step = trainer.start_step

    def due(self, trainer: Trainer) -> bool:
        """With each checkpoint, too."""
        return super().due(trainer) or self.checkpoint.due(trainer)

    def run(self, trainer: Trainer) -> None:
        """Write the averages since the last entry.

        Raises:
            UserError: The loss was not finite at some step since.
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


class Checkpoint(Callback):
    """Writes a checkpoint, puts its model at the root of the output folder, and thins out the older ones.

    Args:
        every: Steps between checkpoints, besides the one at the end. 0: only at the end.
        publisher: Where the newest checkpoint is being uploaded from, if anywhere.
    """

    doing, result = "saving", "the checkpoint"

    def __init__(self, every: int, publisher: BackgroundPublisher | None = None):
        super().__init__(every)
        self.publisher = publisher

    def due(self, trainer: Trainer) -> bool:
        """Also where a run ends, be it by a signal."""
        return trainer.done or super().due(trainer)

    def run(self, trainer: Trainer) -> None:
        """Save the run; the last chance must succeed."""
        self.save(trainer, must_succeed=trainer.done)

    def save(self, trainer: Trainer, must_succeed: bool) -> None:
        """A checkpoint that cannot be written is reported and training goes on, unless it must succeed.

        Raises:
            UserError: It, or its copy in the output folder, could not be written and must succeed.
        """
        # Collected by all processes, since each may hold a part; written by one.
        model, tensors, state = trainer.averaged_model(), _tensors(trainer), _state(trainer)
        root, train = trainer.output_dir / "checkpoints", trainer.config.train

        def fill(folder: Path) -> None:
            save_model(trainer, model, folder)
            for name, part in tensors.items():
                checkpoints.save_tensors(part, folder / "training" / f"{name}.safetensors")
            state.save(folder / "training")

        outcome: list = [None, None, must_succeed]
        step, last = trainer.global_step, trainer.last_checkpoint or "none"
        if trainer.accelerator.is_main_process:
            message = f"The checkpoint of step {step} could not be written ({{}}); the last good checkpoint is {last}."
            try:
                path = outcome[0] = checkpoints.write_checkpoint(root, step, fill)
                message = (
                    f"{path} could not be copied to {trainer.output_dir} ({{}}), where the earlier model is left."
                )
                checkpoints.publish(path, trainer.output_dir)
                message, outcome[2] = f"The checkpoints before {path} could not be removed ({{}}).", False
                in_use = self.publisher.in_use if self.publisher is not None else None
                checkpoints.prune(root, train.keep_checkpoints, train.keep_checkpoints_every, in_use)
            except OSError as error:
                outcome[1] = message.format(error)
        if trainer.accelerator.num_processes > 1:
            broadcast_object_list(outcome)
        path, problem, must_succeed = outcome
        trainer.last_checkpoint = path or trainer.last_checkpoint
        if problem is None:
            return
        if must_succeed:
            raise UserError(f"{problem} Make room and run the same command again.")
        trainer.log.say(f"Warning: {problem} Training goes on; make room before the next one.")


class Push(Callback):
    """Publishes the newest checkpoint on the Hub, in the background.

    Args:
        checkpoint: What there is to publish.
        publisher: The background process; None in processes other than the main one.
    """

    def __init__(self, checkpoint: Checkpoint, publisher: BackgroundPublisher | None):
        super().__init__(checkpoint.every)
        self.checkpoint, self.publisher = checkpoint, publisher

    def start(self, trainer: Trainer) -> None:
        """Make the repository."""
        if self.publisher is not None:
            self.publisher.open(trainer.log.say)

    def missing(self, trainer: Trainer) -> bool:
        """Nobody knows how far the upload had come; one that was complete is not repeated by the Hub."""
        return self.publisher is not None

    def due(self, trainer: Trainer) -> bool:
        """After every step, since it also reports an upload that has ended."""
        return self.publisher is not None

    def run(self, trainer: Trainer) -> None:
        """Upload a new checkpoint, unless the run was asked to stop."""
        assert self.publisher is not None
        if self.checkpoint.due(trainer) and not trainer.stopping and trainer.last_checkpoint is not None:
            self.publisher.push(trainer.last_checkpoint)
        self.publisher.poll()

    def finish(self, trainer: Trainer) -> None:
        """Upload the last checkpoint of a finished run and wait for it."""
        if self.publisher is not None:
            self.publisher.finish(trainer.last_checkpoint if trainer.finished else None)


def save_model(trainer: Trainer, model: ModelMixin, folder: Path) -> None:
    """Write a network of the run, and beside it what trained it."""
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
    write_record(folder, record)


def _state(trainer: Trainer) -> TrainingState:
    scaler = trainer.accelerator.scaler
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
    )


def _tensors(trainer: Trainer) -> dict[str, dict]:
    """Whole tensors by name, also when the model is sharded; the averaged weights are beside them."""
    states, parameters = trainer.optimizer.optimizer.state, trainer.named_parameters()
    return {
        trainer.config.network_name: {name: whole(p) for name, p in parameters},
        "optimizer": {f"{name}/{key}": whole(v) for name, p in parameters for key, v in states[p].items()},
    }
