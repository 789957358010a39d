"""Sampling from a trained pipeline: images that depend on their seed and index, not on batches or processes.

Only a CPU's results are exact to the bit. A GPU starts from the same noise and is equal within float tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from accelerate import PartialState
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from tqdm.auto import tqdm

from cardiff.config.limits import check_limits
from cardiff.config.schedules_by_name import alphas_cumprod_of, section_of
from cardiff.devices import (
    batch_size_for,
    evaluation_dtype,
    fixed_shapes,
    float32_products,
    precision_name,
    record_of,
)
from cardiff.diffusion.levels import log_snr_of, timesteps_at, visited_levels
from cardiff.diffusion.randomness import image_generator
from cardiff.distributed import on_main, one_first, this_process
from cardiff.errors import UserError, user_errors
from cardiff.hub.serialization import find_model, load_pipeline
from cardiff.pipelines import ArgumentError, ClassConditionalPipeline, NonFiniteImages
from cardiff.pipelines.pipeline_class_conditional import ClassConditionalOutput, Classifier, Label, Scale
from cardiff.sampling.guidance import Guidance, GuidanceArguments, make_guidance
from cardiff.sampling.labels import ClassOrMixture, read_labels
from cardiff.sampling.options import DrawOptions, SampleOptions
from cardiff.sampling.solvers import make_solver

OnStep = Callable[[int, int, dict[str, torch.Tensor]], None]
"""Called with the step, its timestep, and the tensors "latents", x after the step, and "model_output", the guided
output before it; (B, C, H, W) each."""


@torch.no_grad()
def draw(
    pipeline: ClassConditionalPipeline,
    indices: Sequence[int],
    *,
    seed: int,
    labels: Sequence[Label] | None,
    guidance_scale: Scale,
    steps: int,
    batch_size: int,
    timesteps: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda count: None,
    classifier_scale: Scale = 1.0,
    on_step: OnStep | None = None,
    **guidance: Unpack[GuidanceArguments],
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Draw the images with these indices of the series that `seed` starts.

    Each image has its own generator on the CPU, so that it depends on model, seed, index, label and options, not on
    its batch: with equal batch sizes to the bit on a CPU, and within float tolerance on a GPU, which starts from the
    same noise.

    Args:
        pipeline: The model, with the solver as its scheduler.
        indices: Which images of the series; B of them.
        seed: Seed of the series.
        labels: Class of each image, by index or name, or a mixture {class: weight}; None to sample without labels.
        guidance_scale: Weight w of guidance: one for all images, one for each, or a function of log-SNR.
        steps: Solver steps.
        batch_size: Images per batch.
        timesteps: The timesteps to visit, decreasing, instead of `steps` evenly spaced ones.
        progress: Called with the number of images after each batch.
        classifier_scale: Weight s of the classifier's gradient, in the forms of guidance_scale.
        on_step: Called after each solver step of each batch.
        guidance: Other guidance arguments of the pipeline.

    Returns:
        Images, uint8 (B, H, W, C), and for each image the number of evaluations of each network.

    Raises:
        UserError: An argument does not fit the model, or images are NaN or infinite; it names their indices.
    """
    pipeline.set_progress_bar_config(disable=True)
    drawn, cost = [], []
    hook: dict[str, Any] = {}
    if on_step is not None:
        hook["callback_on_step_end"] = lambda _, step, timestep, tensors: on_step(step, int(timestep), tensors)
        hook["callback_on_step_end_tensor_inputs"] = ("latents", "model_output", "solver_input")
    with float32_products(tf32=False), fixed_shapes(pipeline.device):
        for first in range(0, len(indices), batch_size):
            batch = slice(first, first + batch_size)
            numbers = [int(index) for index in indices[batch]]
            try:
                with user_errors(ArgumentError):
                    result = pipeline(
                        class_labels=None if labels is None else list(labels[batch]),
                        batch_size=len(numbers),
                        guidance_scale=guidance_scale,
                        num_inference_steps=steps,
                        timesteps=timesteps,
                        generator=[image_generator(seed, number) for number in numbers],
                        output_type="pt",
                        classifier_scale=classifier_scale,
                        **hook,
                        **guidance,
                    )
            except NonFiniteImages as error:
                raise UserError(str(NonFiniteImages([numbers[place] for place in error.numbers]))) from error
            assert isinstance(result, ClassConditionalOutput)
            drawn.append(to_uint8(result.images))
            cost += [dict(zip(result.evaluations, counts)) for counts in zip(*result.evaluations.values())]
            progress(len(result.images))
    return np.concatenate(drawn) if drawn else np.empty(0, np.uint8), cost


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [0, 1] to uint8 (B, H, W, C)."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@dataclass
class Plan:
    """What to draw, and with which model and guidance."""

    folder: Path
    """The model's folder."""
    pipeline: ClassConditionalPipeline
    options: SampleOptions
    labels: list[ClassOrMixture] | None
    guidance: Guidance
    timesteps: list[int] | None
    progress: Callable[[int], object] | None
    """Called with the number of images after each batch, instead of a progress bar."""
    on_step: OnStep | None = None
    """Called after each solver step of each batch; what it raises ends the drawing."""

    @property
    def class_names(self) -> dict[int, str]:
        """The model's classes, or the classifier's."""
        return self.pipeline.class_names(self.guidance.arguments.get("classifier"))

    @property
    def precision(self) -> dict[str, object]:
        """What the manifest records of the precision of the networks and of their compilation."""
        return record_of(self.pipeline.unet.dtype, self.options.compile)

    @property
    def batch_size(self) -> int:
        """Images per batch and process."""
        size = self.pipeline.unet.config.sample_size
        resolution = size if isinstance(size, int) else size[0]
        return batch_size_for(self.options.batch_size, resolution, self.pipeline.device)

    def draw(
        self,
        indices: Sequence[int],
        labels: Sequence[ClassOrMixture] | None,
        scales: Mapping[str, Scale],
        progress: Callable[[int], object] = lambda count: None,
    ) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Draw images with the plan's model and guidance; arguments and result as of the function `draw`.

        Args:
            indices: Which images of the series.
            labels: Class of each image.
            scales: guidance_scale and perhaps classifier_scale.
            progress: Called with the number of images after each batch.
        """
        options = self.options
        return draw(
            self.pipeline,
            indices,
            seed=options.seed,
            labels=labels,
            guidance_scale=scales["guidance_scale"],
            steps=options.steps,
            batch_size=self.batch_size,
            timesteps=self.timesteps,
            progress=progress,
            classifier_scale=scales.get("classifier_scale", 1.0),
            on_step=self.on_step,
            **self.guidance.arguments,
        )

    @contextmanager
    def counting(self, total: int, state: PartialState) -> Iterator[Callable[[int], object]]:
        """Yield a function to call with the number of images after each batch."""
        if self.progress is not None:
            yield self.progress
        else:
            with tqdm(total=total, desc="images", unit="img", disable=not state.is_main_process) as bar:
                yield bar.update


def make_plan(options: SampleOptions, progress: Callable[[int], object] | None = None) -> Plan:
    """Load the networks that the options name, and check that the options fit them; arguments as of `run`.

    Raises:
        UserError: An option does not fit the model.
    """
    state = this_process()
    if [options.output, options.grid, options.animation].count(None) != 2:
        raise UserError(
            "Give either --output DIR for single images, or --grid FILE for a labelled grid, or --animation FILE for "
            "the steps in which a few images are made."
        )
    check_limits(options, "--")
    settle_precision(options)
    with one_first():
        folder = find_model(options.model, options.revision)
    pipeline = load_pipeline(folder, evaluation_dtype(options.precision, state.device)).to(state.device)
    pipeline.scheduler = make_solver(pipeline.scheduler, options.solver)
    timesteps, total = None, pipeline.scheduler.config.num_train_timesteps
    if options.steps > total:
        raise UserError(f"--steps is {options.steps}, but the model has {total} timesteps: give 1 to {total}.")
    if options.timesteps_from is not None:
        timesteps = timesteps_of(pipeline.scheduler, options.timesteps_from, options.steps, options.allow_code)
    with user_errors(ArgumentError):  # before anything is written
        pipeline.set_timesteps(options.steps, timesteps=timesteps)
    with one_first():
        guidance = make_guidance(options, pipeline)
    with user_errors(ArgumentError):
        labels = _labels(pipeline, guidance.arguments.get("classifier"), options.labels)
        pipeline.check(labels, **guidance.arguments)
    if options.compile:
        for network in (pipeline.unet, guidance.arguments.get("guidance_unet"), guidance.arguments.get("classifier")):
            if isinstance(network, torch.nn.Module):
                network.compile()  # in place and when it is first called
    return Plan(folder, pipeline, options, labels, guidance, timesteps, progress)


def timesteps_of(scheduler: SchedulerMixin, schedule: str, steps: int, allow_code: bool = False) -> list[int]:
    """The timesteps of a model that are nearest to the noise levels of another schedule in this number of steps.

    Args:
        scheduler: Of the model.
        schedule: The other one: a name, a YAML file, or FILE.py:FUNCTION.
        steps: Of the solver.
        allow_code: Whether a YAML file may name a function.

    Raises:
        UserError: There is no such schedule, or it has fewer timesteps than steps.
    """
    levels = log_snr_of(alphas_cumprod_of(section_of(schedule, allow_code)))
    return timesteps_at(scheduler, visited_levels(levels, steps))


def settle_precision(options: DrawOptions) -> None:
    """Replace the precision "auto" by that of the main process, so that all processes draw in the same.

    Their GPUs may differ: with a precision each, images of one folder would differ in more than their noise.

    Raises:
        UserError: The precision needs a GPU.
    """
    device = this_process().device
    options.precision = on_main(lambda: precision_name(evaluation_dtype(options.precision, device)))


def _labels(
    pipeline: ClassConditionalPipeline, classifier: Classifier | None, text: str | list[int] | None
) -> list[ClassOrMixture] | None:
    """The labels to draw, all classes by default; None for a model without classes."""
    if pipeline.unet.config.num_class_embeds is None and classifier is None:
        if text is not None:
            raise UserError("This model is unconditional: leave --labels out, or give a --classifier.")
        return None
    if text is None:
        return list(pipeline.class_names(classifier))
    if not isinstance(text, str):
        return list(pipeline.label_ids(text, classifier))
    return read_labels(text, pipeline, classifier)


def batches_of_process(count: int, size: int, state: PartialState) -> list[range]:
    """The batches of this process, of `size` images each.

    Batches are the same ranges for any number of processes, so that equal batch sizes give the same bits on a CPU.
    """
    batches = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return batches[state.process_index :: state.num_processes]
