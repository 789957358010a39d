"""The trainer: one optimizer step, and what goes on around it.

A script's loop is `while trainer.maintain(): trainer.step()`. Nothing in `step` waits for the device; everything that
reads a number back, writes a file or draws a picture is in `maintain`. What is trained is said by a subclass.
"""

import math
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError

from cardiff.config.run import RunConfig
from cardiff.config.schedule import make_schedule
from cardiff.data import ImageStore
from cardiff.data.batches import BatchPlan, batch_loader, identify, open_data, split_rows
from cardiff.diffusion.randomness import DROPOUT, batch_noise, derive_seed
from cardiff.distributed import check_world_size
from cardiff.errors import UserError
from cardiff.hub.client import HubError, download_checkpoint
from cardiff.hub.provenance import hardware, versions, without_paths, write_record
from cardiff.hub.publish import BackgroundPublisher
from cardiff.hub.serialization import export_model, load_network
from cardiff.training import checkpoint as checkpoints
from cardiff.training.interrupt import StopRequest
from cardiff.training.metrics import LossTotals, RunLog
from cardiff.training.resume import TrainingState, refuse_changes


class Trainer(ABC):
    """A training run: everything it needs, from the data to the checkpoints.

    Building it opens the data, builds the model and continues from the newest good checkpoint in `output_dir`. A
    subclass says what the model is, what its loss is, what is shown of it on the way and how it is saved.

    Raises:
        UserError: Data, configuration or checkpoint that the run cannot use, in one sentence.
    """

    def __init__(self, config: RunConfig):
        self.config, train = config, config.train
        self.output_dir = Path(config.output_dir)
        self.checkpoint_root = self.output_dir / "checkpoints"
        self.accelerator = Accelerator(
            mixed_precision=train.mixed_precision,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            log_with=_trackers(train.trackers),
            project_config=ProjectConfiguration(self.output_dir, logging_dir=self.output_dir / "logs"),
        )
        check_world_size(self.accelerator.num_processes)
        self.device = self.accelerator.device
        torch.backends.cudnn.benchmark = True  # every batch has the same shape

        # Data: this process's part of every global batch.
        self.positions = self._positions()
        self.data = open_data(config.data, conditional=config.labelled, seed=train.seed)
        self.class_names = self.data.class_names if config.labelled else []
        self.rows, self.held_out = split_rows(self.data, getattr(train, "validation_fraction", 0.0), train.seed)
        self.data_digests = identify(self.data, self.held_out, config.labelled)
        self.total_steps = self._total_steps()

        # Model: weights from the seed, so that every process starts with the same.
        self.scheduler = make_schedule(config.scheduler).to_stock()
        model = self.build_model()
        if train.channels_last:
            model.to(memory_format=torch.channels_last)
        if train.compile:
            model.compile()
        self._averaged_model = type(model).from_config(model.config)  # filled in when it is shown or saved
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=_fused(self.device)
        )
        self.learning_rate_factor = get_scheduler(
            train.lr_schedule,
            optimizer,
            num_warmup_steps=train.lr_warmup_steps,
            num_training_steps=self.total_steps,
        ).lr_lambdas[0]
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.model.train()
        self.ema = EMAModel(self.model.parameters(), decay=train.ema_decay, foreach=True)

        # Where it is published: refused now, and not after hours, if it never can be.
        self.publisher = None
        if config.hub.push_to_hub and self.accelerator.is_main_process:
            self.publisher = BackgroundPublisher(self.output_dir, config.hub)

        # Where the run stands: at the newest good checkpoint, or at the beginning.
        self.global_step, self.stream_state, self.last_checkpoint = 0, None, None
        self.seconds = 0.0
        self._resume()
        self.start_step = self.logged_step = self.global_step
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            content = yaml.safe_dump({"kind": config.kind, **config.to_dict()}, sort_keys=False)
            (self.output_dir / "config.yaml").write_text(content)
        self.accelerator.wait_for_everyone()
        plan = BatchPlan(
            seed=train.seed,
            batch_size=train.batch_size,
            positions=self.positions,
            num_train_timesteps=self.scheduler.config.num_train_timesteps,
            horizontal_flip=config.data.horizontal_flip,
            label_dropout=getattr(train, "label_dropout", 0.0),
        )
        self.batches = iter(
            batch_loader(
                self.data,
                plan,
                range(self.start_step, self.total_steps),
                num_workers=config.data.num_workers,
                pin_memory=self.device.type == "cuda",
                rows=self.rows,
                stream_state=self.stream_state,
            )
        )
        self.totals = LossTotals(self.device)
        self.log = RunLog(
            self.accelerator,
            self.output_dir / "logs",
            self.start_step,
            self.total_steps,
            without_paths(config.to_dict()),  # trackers may be elsewhere
        )
        self.since = time.perf_counter()
        if self.publisher is not None:
            self.publisher.open(self.log.say)
        # Last, so that whoever is refused a run keeps the signals.
        self.stop_requested = StopRequest(self.accelerator.num_processes)

    # What a subclass says.

    @abstractmethod
    def build_model(self) -> ModelMixin:
        """The network, with weights drawn from the seed; called once, with the data and the scheduler at hand."""

    @abstractmethod
    def loss(self, images, timesteps, noise, flip, labels=None, drop=None) -> torch.Tensor:
        """The loss of each image, (b,), from uint8 images (b, C, H, W) and the draws made for them."""

    @property
    @abstractmethod
    def show_every(self) -> int:
        """Steps between calls of `show`, besides the one at the end. 0 for never."""

    @abstractmethod
    def show(self) -> None:
        """Write down what the averaged weights can do; called by all processes."""

    @property
    def evaluate_every(self) -> int:
        """Steps between calls of `evaluate`, besides the one at the end. 0 for never."""
        return 0

    def evaluate(self) -> None:
        """Measure the averaged weights, and keep them if they are the best so far; called by all processes."""
        raise NotImplementedError  # of a subclass whose evaluate_every is not 0

    @abstractmethod
    def save_model(self, model: ModelMixin, folder: Path) -> None:
        """Write the network with these weights so that anyone can load it."""

    @property
    @abstractmethod
    def outcome(self) -> str:
        """What the finished run leaves, as the end of a sentence."""

    # The step: algorithm 1 of Ho et al. (arXiv 2006.11239), whatever the loss.

    def step(self) -> None:
        """One optimizer step on one global batch."""
        train = self.config.train
        batch = next(self.batches)
        self.stream_state = batch.pop("stream", None)
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        batch["noise"] = batch_noise(
            train.seed, self.global_step, self.positions, tuple(batch["images"].shape[1:]), self.device
        )
        # Dropout inside the network is the one draw that depends on the number of processes.
        torch.manual_seed(derive_seed(train.seed, DROPOUT, self.global_step, self.accelerator.process_index))

        # Gradients, from as many parts as fit the memory.
        for part in _split(batch, train.gradient_accumulation_steps):
            with self.accelerator.accumulate(self.model):
                loss = self.loss(**part)  # (b,)
                self.accelerator.backward(loss.mean())
            self.totals.watch(loss.detach(), self.global_step + 1)
            self.totals.add(loss.detach(), part["timesteps"], self.scheduler.config.num_train_timesteps)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), train.max_grad_norm)

        # Optimizer step.
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * self.learning_rate_factor(self.global_step)
        self.optimizer.step()
        self.optimizer.zero_grad()

        # Weight average.
        self.ema.step(self.model.parameters())
        self.totals.grad_norm = _whole(norm)
        self.global_step += 1
        self.log.bar.update(1)

    def noised(self, images, timesteps, noise, flip) -> tuple[torch.Tensor, torch.Tensor]:
        """x₀ in [-1, 1] and x_t, float32 (b, C, H, W), from uint8 images, mirrored where `flip` says so."""
        images = images.float() / 127.5 - 1  # [0, 255] -> [-1, 1]
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        noisy = self.scheduler.add_noise(images, noise, timesteps)  # x_t = √ᾱ_t·x₀ + √(1−ᾱ_t)·ε
        if self.config.train.channels_last:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        return images, noisy

    # Around the step.

    def maintain(self) -> bool:
        """Log, save and show what is due at this step; False when the run is done or asked to stop."""
        train, step = self.config.train, self.global_step
        finished = step >= self.total_steps
        stopping = self.stop_requested()
        ending = finished or stopping
        if step > self.start_step:
            checkpoint_due = ending or _due(step, train.checkpoint_every)
            if checkpoint_due or _due(step, train.log_every):
                self.write_log()
            if checkpoint_due:
                with self.log.pause("saving"):
                    self.save_checkpoint(must_succeed=ending)
            if self.show_every and (finished or _due(step, self.show_every)):
                with self.log.pause("showing"):
                    self.show()
            if self.evaluate_every and (finished or _due(step, self.evaluate_every)):
                with self.log.pause("evaluating"):
                    self.evaluate()
            if checkpoint_due and not stopping and self.publisher is not None:
                self.publisher.push(Path(self.last_checkpoint))
        if self.publisher is not None:
            self.publisher.poll()
        return not ending

    def finish(self) -> bool:
        """Close the log and say what to do next; whether the run is complete."""
        if self.global_step < self.total_steps:
            self.log.say(f"Stopped after step {self.global_step}; run the same command to go on.")
        elif self.global_step == self.start_step:
            self.log.say(f"{self.output_dir} is already trained to step {self.global_step}; nothing to do.")
        else:
            self.log.say(f"Trained to step {self.global_step}; {self.outcome}")
        self.stop_requested.restore()  # there is nothing left to lose by being stopped
        if self.publisher is not None:
            complete = self.global_step >= self.total_steps and self.last_checkpoint is not None
            self.publisher.finish(Path(self.last_checkpoint) if complete else None)
        self.log.close()
        return self.global_step >= self.total_steps

    def write_log(self) -> None:
        """Read the totals since the last entry, the one place where training waits for the device.

        Raises:
            UserError: The loss was not finite at some step since.
        """
        values, first_bad = self.totals.read(self.accelerator)
        if math.isfinite(first_bad):
            good = self.last_checkpoint or "none"
            raise UserError(
                f"The loss was not finite at step {int(first_bad)}; the last good checkpoint is {good}. "
                "Try a lower train.learning_rate, or bf16 instead of fp16."
            )
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        images = (self.global_step - self.logged_step) * self.config.train.batch_size
        self.logged_step = self.global_step
        self.log.write(self.global_step, values, images)

    @torch.no_grad()
    def averaged_model(self) -> ModelMixin:
        """The network with the averaged weights; a collective operation when the model is sharded."""
        averages = zip(self._named_parameters(), self.ema.shadow_params, strict=True)
        self._averaged_model.load_state_dict({name: _whole(average) for (name, _), average in averages})
        return self._averaged_model

    def save_checkpoint(self, must_succeed: bool) -> None:
        """Write a checkpoint, put its model at the root of the output folder, and thin out the older ones.

        A checkpoint that cannot be written is reported and training goes on, unless it was the last chance.

        Raises:
            UserError: It could not be written and must succeed.
        """
        # Collected by all processes, since each may hold a part; written by one.
        model = self.averaged_model()
        tensors = self._model_and_optimizer()
        state = TrainingState(
            step=self.global_step,
            ema_step=self.ema.optimization_step,
            stream=self.stream_state,
            scaler=self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            class_names=self.class_names,
            conditional=self.config.labelled,
            config=without_paths(self.config.to_dict()),
            seconds=self.seconds_spent,
            data=self.data_digests,
        )

        def fill(folder: Path) -> None:
            self.save(model, folder)
            for name, part in tensors.items():
                checkpoints.save_tensors(part, folder / "training" / f"{name}.safetensors")
            state.save(folder / "training")

        outcome = [None, None]
        if self.accelerator.is_main_process:
            try:
                path = checkpoints.write_checkpoint(self.checkpoint_root, self.global_step, fill)
                checkpoints.publish(path, self.output_dir)
                train = self.config.train
                in_use = self.publisher.in_use if self.publisher is not None else None
                checkpoints.prune(self.checkpoint_root, train.keep_checkpoints, train.keep_checkpoints_every, in_use)
                outcome[0] = str(path)
            except (OSError, SafetensorError) as error:
                outcome[1] = str(error)
        path, problem = broadcast_object_list(outcome) if self.accelerator.num_processes > 1 else outcome
        if problem is None:
            self.last_checkpoint = path
            return
        message = (
            f"The checkpoint of step {self.global_step} could not be written ({problem}); "
            f"the last good checkpoint is {self.last_checkpoint or 'none'}."
        )
        if must_succeed:
            raise UserError(f"{message} Make room and run the same command again.")
        self.log.say(f"Warning: {message} Training goes on; make room before the next one.")

    def save(self, model: ModelMixin, folder: Path) -> None:
        """Write the network with these weights, and beside it what trained it."""
        self.save_model(model, folder)
        stored = isinstance(self.data, ImageStore)
        counts = None
        if stored and self.class_names:
            counts = np.bincount(self.data.labels[self.rows], minlength=len(self.class_names)).tolist()
        record = {
            "kind": self.config.kind,
            "step": self.global_step,
            "images_seen": self.global_step * self.config.train.batch_size,
            "seconds": self.seconds_spent,
            "hardware": hardware(self.device),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "versions": versions(),
            "images": len(self.rows) if stored else None,
            "class_counts": counts,
            "config": without_paths(self.config.to_dict()),
        }
        write_record(folder, record)

    @property
    def seconds_spent(self) -> float | None:
        """Wall-clock time of the run so far, over all its parts; None if one of them did not keep it."""
        return None if self.seconds is None else round(self.seconds + time.perf_counter() - self.since, 1)

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.accelerator.unwrap_model(self.model).named_parameters())

    def _model_and_optimizer(self) -> dict[str, dict[str, torch.Tensor]]:
        """Whole tensors by name, also when the model is sharded; the averaged weights are beside them."""
        states = self.optimizer.optimizer.state
        parameters = self._named_parameters()
        return {
            self.config.network_name: {name: _whole(p) for name, p in parameters},
            "optimizer": {f"{name}/{key}": _whole(v) for name, p in parameters for key, v in states[p].items()},
        }

    def _resume(self) -> None:
        """Continue from the newest good checkpoint, if there is one."""
        found = [None]
        if self.accelerator.is_main_process and self.config.resume_from is not None:
            try:
                self._fetch(self.config.resume_from)
            except HubError as error:
                if not checkpoints.list_checkpoints(self.checkpoint_root):
                    raise
                print(f"Warning: {error} Going on from what is in {self.checkpoint_root}.")
        if self.accelerator.is_main_process and self.checkpoint_root.is_dir():
            checkpoints.remove_leftovers(self.checkpoint_root)
            found = [next(checkpoints.good_checkpoints(self.checkpoint_root, print), None)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        path = found[0]
        if path is None:
            if self.accelerator.is_main_process and checkpoints.list_checkpoints(self.checkpoint_root):
                print(f"No checkpoint in {self.checkpoint_root} is whole: starting from the beginning.")
            return
        if not path.is_dir():
            raise UserError(f"{path} cannot be seen by every machine: put output_dir on a disk that they share.")
        state = TrainingState.load(path / "training")
        for notice in refuse_changes(state, self.config, self.class_names, self.data_digests):
            self.accelerator.print(notice)

        try:
            self._load_tensors(path)
        except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} does not fit the model that it describes ({reason}): remove it.") from error
        self.ema.optimization_step, self.seconds = state.ema_step, state.seconds
        if state.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.global_step, self.stream_state, self.last_checkpoint = state.step, state.stream, str(path)
        if self.accelerator.is_main_process:
            try:
                checkpoints.publish(path, self.output_dir)  # the run may have been killed just before it did
            except OSError as error:
                raise UserError(f"{self.output_dir} cannot be written ({error}): make room.") from error
        self.accelerator.print(f"Resuming from {path}.")

    def _fetch(self, source: str) -> None:
        """Put the newest checkpoint of another folder or of the Hub among this run's own, unless they are newer.

        Raises:
            UserError: There is none, it is damaged, or it is of another model.
        """
        checkpoint = checkpoints.newest_in(Path(source)) if Path(source).is_dir() else download_checkpoint(source)
        damage = checkpoints.find_damage(checkpoint)
        if damage is not None:
            raise UserError(f"--resume_from {source}: {checkpoint.name} is damaged ({damage}): copy or push it again.")
        state = TrainingState.load(checkpoint / "training")
        refuse_changes(state, self.config, self.class_names, self.data_digests, source)
        if state.step != checkpoints.step_of(checkpoint):
            raise UserError(f"--resume_from {source}: {checkpoint.name} says that it is of step {state.step}.")
        own = checkpoints.list_checkpoints(self.checkpoint_root)
        if own and checkpoints.step_of(own[-1]) >= state.step:
            print(f"{own[-1]} is as new as the checkpoint of {source}, which is not used.")
            return

        def fill(folder: Path) -> None:
            export_model(checkpoint, folder)  # written anew, so that no code comes with it
            (folder / "training").mkdir()
            for name in checkpoints.listed_files(checkpoint):
                if name.startswith("training/") and not name.endswith(".py"):
                    shutil.copyfile(checkpoint / name, folder / name)

        try:
            checkpoints.write_checkpoint(self.checkpoint_root, state.step, fill)
        except OSError as error:
            raise UserError(f"{self.output_dir} cannot be written ({error}): make room.") from error
        print(f"Took the checkpoint of step {state.step} from {source}.")

    def _load_tensors(self, path: Path) -> None:
        """Weights, averages and the optimizer's moments from a checkpoint."""
        network = self.config.network_name
        weights = checkpoints.load_tensors(path / "training" / f"{network}.safetensors")
        averages = load_network(type(self._averaged_model), path / network).state_dict()
        moments = {}
        for name, value in checkpoints.load_tensors(path / "training/optimizer.safetensors").items():
            parameter, key = name.split("/")
            moments.setdefault(parameter, {})[key] = value
        inner, parameters = self.optimizer.optimizer, self._named_parameters()
        with torch.no_grad():
            for (name, parameter), average in zip(parameters, self.ema.shadow_params, strict=True):
                parameter.copy_(_like(weights[name], parameter))
                average.copy_(_like(averages[name], average))
                moments[name] = {k: _like(v, parameter) if v.dim() else v for k, v in moments[name].items()}
        in_order = {i: moments[name] for i, (name, _) in enumerate(parameters)}
        inner.load_state_dict({"state": in_order, "param_groups": inner.state_dict()["param_groups"]})

    def _total_steps(self) -> int:
        train = self.config.train
        if train.max_steps is not None:
            return train.max_steps
        if not isinstance(self.data, ImageStore):
            raise UserError("The length of a stream is not known beforehand: give train.max_steps.")
        return math.ceil(train.epochs * len(self.rows) / train.batch_size)

    def _positions(self) -> range:
        """The positions of the global batch that this process works on."""
        train, processes = self.config.train, self.accelerator.num_processes
        parts = processes * train.gradient_accumulation_steps
        if train.batch_size % parts:
            raise UserError(
                f"train.batch_size is {train.batch_size}, but must be a multiple of {parts}: {processes} processes "
                f"times train.gradient_accumulation_steps {train.gradient_accumulation_steps}."
            )
        share = train.batch_size // processes
        return range(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)


def _trackers(names: list[str]) -> list[str] | None:
    available = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in available:
            raise UserError(f"train.trackers names {name!r}, which is not installed here; installed are {available}.")
    return names or None


def _split(batch: dict, parts: int) -> list[dict]:
    chunks = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [{name: chunk[k] for name, chunk in chunks.items()} for k in range(parts)]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _fused(device: torch.device) -> bool | None:
    return True if device.type in ("cpu", "cuda") else None


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all processes, or the tensor itself."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _like(whole: torch.Tensor, sharded: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut up as the other one is."""
    if not hasattr(sharded, "full_tensor"):
        return whole
    whole = whole.to(sharded.device)
    return torch.distributed.tensor.distribute_tensor(whole, sharded.device_mesh, sharded.placements)
