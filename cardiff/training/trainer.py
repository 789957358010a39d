"""The training loop: one optimizer step, and the callbacks that run between steps.

    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()

Nothing in `step` waits for the device; whatever reads a number back, writes a file or draws samples is a callback
(cardiff/training/callbacks.py). The loss is a parameter (cardiff/diffusion/loss.py).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from diffusers import ModelMixin

from cardiff.config.run import RunConfig
from cardiff.diffusion.draws import BatchDraws, Draws
from cardiff.diffusion.randomness import DROPOUT, derive_seed
from cardiff.distributed import device_name, on_main
from cardiff.errors import disk_sentence
from cardiff.hub.provenance import BaseModel, without_paths
from cardiff.interrupt import Stopped
from cardiff.outputs import FolderLock
from cardiff.training.attention import attention_kernel
from cardiff.training.average import WeightAverage
from cardiff.training.compilation import compile_mode
from cardiff.training.data import TrainingData
from cardiff.training.interrupt import StopRequest
from cardiff.training.learning_rate import learning_rate_factor
from cardiff.training.metrics import LossTotals, RunLog
from cardiff.training.optimizers import build_optimizer
from cardiff.training.power_average import PowerAverage
from cardiff.training.sharding import gathered

if TYPE_CHECKING:
    from cardiff.training.callbacks import Callback

Loss = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor | None, Draws], torch.Tensor]
"""Maps a network, uint8 images (b, C, H, W), labels (b,) and the draws for them to the loss of each image, (b,)."""


class Trainer:
    """A training run.

    Args:
        config: Configuration of the run.
        accelerator: Processes, device and precision.
        data: The images.
        model: The network with its initial weights.
        loss: What is minimised.
        draws: Timesteps, noise, flips and dropped labels of each step.
        export: Saves the network to a folder from which diffusers can load it.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        data: TrainingData,
        model: ModelMixin,
        loss: Loss,
        draws: BatchDraws,
        export: Callable[[ModelMixin, Path], None],
    ):
        train = config.train
        self.config, self.accelerator, self.data = config, accelerator, data
        self.loss, self.draws, self.export = loss, draws, export
        self.output_dir, self.device = Path(config.output_dir), accelerator.device
        self.total_steps = data.steps(train)
        self.sharded = accelerator.is_fsdp2
        self.network_class = type(model)  # sharding replaces it by a class of its own
        self._averaged_model: ModelMixin | None = None  # made when it is first sampled from or saved
        if train.channels_last and not self.sharded:  # FSDP shards contiguous weights only
            model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(model, train, self.device, accelerator.mixed_precision)
        self.attention_kernel = attention_kernel(model, accelerator.mixed_precision, self.device)
        self.learning_rate_factor = learning_rate_factor(train, self.total_steps)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.model.train()
        self.compile_mode = compile_mode(config, self.device, self.total_steps, self.pass_size)
        if self.compile_mode is not None:
            # After `prepare`, so that gradients are exchanged while the backward pass goes on.
            self.model.compile(mode=self.compile_mode, dynamic=False)
        self.ema = WeightAverage(self.model.parameters(), decay=train.ema_decay)
        self.averages = [PowerAverage(self.model.parameters(), width) for width in train.ema_widths]
        self.totals = LossTotals(self.device)

        # Progress: step 0 unless the run is resumed.
        self.global_step = self.start_step = 0
        self.stream_state: dict | None = None
        self.last_checkpoint: Path | None = None
        self.seconds: float | None = 0.0
        self.stopping = False
        self.base_model: BaseModel | None = None
        """What the run started from; None for random weights."""
        self.lock: FolderLock | None = None
        """Lock on the output folder, held by the main process until the end."""
        self.callbacks: Sequence[Callback] = ()

    def own_output_dir(self) -> None:
        """Lock the output folder against other commands until the run ends, however it ends.

        Raises:
            UserError: Another process is writing to it.
        """
        on_main(self._lock)

    def _lock(self) -> None:
        self.lock = FolderLock(self.output_dir)

    def start(self, callbacks: Sequence["Callback"]) -> None:
        """Start training. From here on, a signal ends the run after the current step.

        On resume, first runs the callbacks whose output for the current step is missing because the run was killed.

        Args:
            callbacks: Run between the steps, in this order.
        """
        self.start_step = self.global_step
        self.batches: Iterator[dict] = iter(self.data.batches(self.start_step, self.total_steps, self.stream_state))
        settings = without_paths(self.config.to_dict())  # trackers may be on other machines
        if not self.finished:
            precision = self.accelerator.mixed_precision
            number_type = "float32" if precision == "no" else precision
            self.accelerator.print(f"Training in {number_type} on {device_name(self.device)}.")
        self.log = RunLog(self.accelerator, self.output_dir / "logs", self.start_step, self.total_steps, settings)
        self.since = time.perf_counter()
        self.callbacks = callbacks
        for callback in callbacks:
            callback.start(self)
        self.stop_requested = StopRequest(self.accelerator.num_processes)
        if self.start_step > 0:
            missing = on_main(lambda: [callback.missing(self) for callback in callbacks])
            self._run([callback for callback, wanted in zip(callbacks, missing) if wanted])

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.global_step >= self.total_steps

    @property
    def done(self) -> bool:
        """Whether the loop ends here: all steps are done, or the run was asked to stop."""
        return self.finished or self.stopping

    def step(self) -> None:
        """One optimizer step on one global batch."""
        train = self.config.train
        batch = next(self.batches)
        self.stream_state = batch.pop("stream", None)
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        images, labels = batch["images"], batch.get("labels")
        draws = self.draws(self.global_step, tuple(images.shape[1:]), self.device)
        # Dropout inside the network is the only randomness that depends on the number of processes.
        torch.manual_seed(derive_seed(train.seed, DROPOUT, self.global_step, self.accelerator.process_index))

        # Gradients, accumulated over the parts of the batch.
        parts = train.gradient_accumulation_steps
        label_parts = [None] * parts if labels is None else labels.chunk(parts)
        if self.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # the memory of the last step's graph is free again
        for part in zip(images.chunk(parts), label_parts, draws.chunk(parts)):
            with self.accelerator.accumulate(self.model):
                with self.attention_kernel():
                    loss = self.loss(self.model, *part)  # (b,)
                self.accelerator.backward(loss.mean())
            self._count(loss.detach(), part[-1].timesteps)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), train.max_grad_norm)

        # Optimizer step.
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * self.learning_rate_factor(self.global_step)
        self.optimizer.step()
        self.optimizer.zero_grad()

        # Weight averages.
        self.ema.step(self.model.parameters())
        for average in self.averages:
            average.step(self.model.parameters(), self.global_step + 1)
        self.totals.grad_norm = norm
        self.global_step += 1
        self.log.bar.update(1)

    def _count(self, loss: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Add the losses of images (b,) at timesteps (b,) to the totals of the log and of the density of timesteps."""
        density = self.draws.density
        self.totals.watch(loss, self.global_step + 1)
        importance = None if density is None else density.importance[timesteps]
        self.totals.add(loss, timesteps, self.draws.num_train_timesteps, importance)
        if density is not None:
            density.add(loss, timesteps)

    def run_callbacks(self) -> None:
        """Run the callbacks that are due after this step."""
        self.stopping = self.stop_requested()
        self._run(self.callbacks)

    def _run(self, callbacks: Sequence["Callback"]) -> None:
        for callback in callbacks:
            if callback.due(self):
                try:
                    with self.log.pause(callback.doing) if callback.doing else nullcontext():
                        callback.run(self)
                except OSError as error:
                    if disk_sentence(error) is None:
                        raise
                    # A full disk must not end a training run.
                    self.log.say(
                        f"Warning: {callback.result} of step {self.global_step} could not be written ({error}); "
                        "training continues."
                    )
                if self.sharded:
                    self._averaged_model = None  # a whole network, for which there is no room while training

    def finish(self) -> bool:
        """Run the callbacks' `finish`, close the log and print how the run ended.

        Returns:
            Whether the run is complete.

        Raises:
            Stopped: The run was stopped by a signal before it was complete; its last step is saved.
        """
        if not self.finished:
            self.log.say(f"Stopped after step {self.global_step}; run the same command again to resume.")
        elif self.global_step == self.start_step:
            self.log.say(f"{self.output_dir} is already trained to step {self.global_step}; nothing to do.")
        else:
            self.log.say(f"Trained to step {self.global_step}; the model is in {self.output_dir}.")
        self.stop_requested.restore()  # everything is saved; a signal may end the process now
        for callback in self.callbacks:
            callback.finish(self)
        self.log.close()
        if self.lock is not None:
            self.lock.release()
        if not self.finished and self.stop_requested.number:
            raise Stopped(self.stop_requested.number)
        return self.finished

    def averaged_model(self) -> ModelMixin:
        """The network with the averaged weights; a collective operation if the model is sharded."""
        model = self.average_into_model(wanted=True)
        assert model is not None
        return model

    @torch.no_grad()
    def average_into_model(self, wanted: bool) -> ModelMixin | None:
        """As `averaged_model`, but for the processes that want it; the others only take part in the gathering."""
        if wanted and self._averaged_model is None:
            self._averaged_model = self.network_class.from_config(self.accelerator.unwrap_model(self.model).config)
        model = self._averaged_model if wanted else None
        targets = {} if model is None else dict(model.named_parameters())
        names = [name for name, _ in self.named_parameters()]
        for name, average in gathered(zip(names, self.ema.shadow_params, strict=True), keep=wanted):
            targets[name].copy_(average)
        return model

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The network's parameters by name; shards of them if the model is sharded."""
        return list(self.accelerator.unwrap_model(self.model).named_parameters())

    def named_averages(self) -> list[tuple[str, torch.Tensor]]:
        """The averages of train.ema_widths as WIDTH/NAME; shards of them if the model is sharded."""
        names = [name for name, _ in self.named_parameters()]
        return [
            (f"{average.width:g}/{name}", tensor)
            for average in self.averages
            for name, tensor in zip(names, average.tensors, strict=True)
        ]

    @property
    def pass_size(self) -> int:
        """Images in one forward pass during training, a number that fits in memory."""
        return len(self.draws.positions) // self.config.train.gradient_accumulation_steps

    @property
    def seconds_spent(self) -> float | None:
        """Wall-clock time of the run so far, including before it was resumed; None if an old checkpoint lacks it."""
        return None if self.seconds is None else round(self.seconds + time.perf_counter() - self.since, 1)
