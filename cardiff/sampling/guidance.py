"""Guidance of sample.py: from its options to the pipeline's arguments, and to the entries of the manifest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from diffusers import UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.errors import UserError, user_errors
from cardiff.files import file_hash
from cardiff.hub.serialization import classifier_weights_file, find_model, load_classifier, load_pipeline, weights_file
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.pipelines.pipeline_class_conditional import Classifier, Interval
from cardiff.sampling.options import GuidanceOptions
from cardiff.schedulers import load_function

Weight = float | Callable[[float], float]
"""A scale, or one as a function of log-SNR."""


class GuidanceArguments(TypedDict, total=False):
    """The guidance arguments of the pipeline, except the scales."""

    guidance_interval: Interval
    guidance_interval_sigma: Interval
    guidance_rescale: float
    dynamic_thresholding: float
    cfg_plus_plus: bool
    guidance_unet: UNet2DModel
    classifier: Classifier


@dataclass
class Guidance:
    """Guidance in the form that the pipeline takes."""

    arguments: GuidanceArguments
    """Arguments of the pipeline that are the same for all images."""
    variants: list[dict[str, Weight]]
    """The scales that images are drawn with, by the pipeline's names: one block of a grid or turn of a folder each."""
    record: dict[str, object]
    """What options.json and the manifest record of it besides the scales."""

    @property
    def numbers(self) -> dict[str, list[float]]:
        """The scales by name, one for each variant; without functions of log-SNR, whose values are in `record`."""
        names = [name for name, scale in self.variants[0].items() if not callable(scale)]
        return {name: [s for v in self.variants if not callable(s := v[name])] for name in names}

    @property
    def titles(self) -> list[str]:
        """The kind and the weight of each variant's guidance, as titles of a grid."""
        kinds = {"cfg_plus_plus": "CFG++", "guidance_unet": "autoguidance"}
        kind = next((name for argument, name in kinds.items() if argument in self.arguments), "")
        if not kind and any(variant["guidance_scale"] != 1 for variant in self.variants):
            kind = "classifier-free guidance"
        return [_title(kind, variant, self.arguments) for variant in self.variants]


def make_guidance(options: GuidanceOptions, pipeline: ClassConditionalPipeline) -> Guidance:
    """Load the networks that guide, and check that they fit the model.

    Args:
        options: The guidance options of a command.
        pipeline: The model, with its solver and its timesteps set.

    Raises:
        UserError: An option cannot be read, or a network has other images, classes or noise levels.
    """
    arguments: GuidanceArguments = {}
    record: dict[str, object] = {}
    if options.guidance_interval is not None:
        arguments["guidance_interval"] = _interval("guidance_interval", options.guidance_interval)
    if options.guidance_interval_sigma is not None:
        arguments["guidance_interval_sigma"] = _interval("guidance_interval_sigma", options.guidance_interval_sigma)
    if options.guidance_rescale != 0:
        arguments["guidance_rescale"] = options.guidance_rescale
    if options.dynamic_thresholding is not None:
        arguments["dynamic_thresholding"] = options.dynamic_thresholding
    if options.cfg_plus_plus:
        arguments["cfg_plus_plus"] = True
    record |= arguments

    if options.guidance_model is not None:
        folder = find_model(options.guidance_model)
        worse = load_pipeline(folder, pipeline.unet.dtype)
        _same_noise(pipeline, worse.scheduler, f"--guidance_model {options.guidance_model}")
        mine, its = (p.scheduler.config.prediction_type for p in (pipeline, worse))
        if mine != its:
            raise UserError(
                f"--guidance_model {options.guidance_model} predicts {its} and the model {mine}: name one that "
                f"predicts {mine}."
            )
        arguments["guidance_unet"] = worse.unet.to(pipeline.device)
        record["guidance_weights_sha256"] = file_hash(weights_file(folder))
    if options.classifier is not None:
        folder = find_model(options.classifier)
        classifier, scheduler = load_classifier(folder, pipeline.unet.dtype)
        _same_noise(pipeline, scheduler, f"--classifier {options.classifier}")
        arguments["classifier"] = classifier.to(pipeline.device)
        record["classifier_sha256"] = file_hash(classifier_weights_file(folder))
    elif options.classifier_scale != [1.0]:
        raise UserError("--classifier_scale has no effect without --classifier: give both, or neither.")

    weights = [float(scale) for scale in options.guidance_scale]
    scales: list[Weight] = [*weights]
    if options.guidance_schedule is not None:
        if options.guidance_scale != [1.0]:
            raise UserError("Give --guidance_scale or --guidance_schedule, not both.")
        schedule = _schedule(options.guidance_schedule)
        scales = [schedule]
        record["guidance_schedule"] = weights = [schedule(level) for level in pipeline.log_snr_of_steps()]
    if options.cfg_plus_plus and not all(0 <= w <= 1 for w in weights):
        raise UserError("--guidance_scale must lie between 0 and 1 with --cfg_plus_plus.")
    variants: list[dict[str, Weight]] = [{"guidance_scale": scale} for scale in scales]
    unconditional = pipeline.unet.config.num_class_embeds is None
    if unconditional and options.guidance_model is None and (scales != [1.0] or callable(scales[0])):
        raise UserError(
            "This model is unconditional: --guidance_scale and --guidance_schedule need a --guidance_model; use "
            "--classifier_scale with a --classifier."
        )
    if options.classifier is not None:
        pushes = [float(scale) for scale in options.classifier_scale]
        variants = [{**variant, "classifier_scale": push} for variant in variants for push in pushes]
    return Guidance(arguments, variants, record)


def _interval(name: str, given: list[float] | str) -> Interval:
    """The two ends of an interval."""
    try:
        low, high = (float(part) for part in (given.split(",") if isinstance(given, str) else given))
    except ValueError:
        raise UserError(f"--{name} is {given}, but must be two numbers: [low,high].") from None
    return low, high


def _schedule(text: str | list[list[float]]) -> Callable[[float], float]:
    """w as a function of log-SNR, from points or from a Python file."""
    if isinstance(text, str):
        path, colon, name = text.rpartition(":")
        if not (colon and path.endswith(".py")):
            raise UserError(
                f"--guidance_schedule is {text!r}, but must be points [[log-SNR,w],…] or FILE.py:FUNCTION."
            )
        with user_errors():
            function = load_function(path, name)

        def weight(log_snr: float) -> float:
            try:
                return float(function(log_snr))
            except Exception as error:
                raise UserError(f"{text} fails at log-SNR {log_snr:g} with {type(error).__name__}: {error}") from error

        return weight
    if not text or any(len(point) != 2 for point in text):
        raise UserError(f"--guidance_schedule is {text}, but each point must be two numbers: [log-SNR,w].")
    levels, weights = zip(*text)
    if any(low >= high for low, high in zip(levels, levels[1:])):
        raise UserError(f"--guidance_schedule is {text}, but its log-SNRs must be strictly increasing.")
    return lambda log_snr: float(np.interp(log_snr, levels, weights))


def _same_noise(pipeline: ClassConditionalPipeline, scheduler: SchedulerMixin, what: str) -> None:
    """Refuse a network that was trained on other noise levels: of these, networks are only given the timestep."""
    mine, its = pipeline.scheduler.alphas_cumprod, scheduler.alphas_cumprod
    if len(mine) != len(its) or not torch.allclose(mine.double(), its.double(), rtol=1e-5, atol=1e-7):
        raise UserError(
            f"{what} was trained on other noise levels than the model: name one that was trained on the same schedule."
        )


def _title(kind: str, variant: dict[str, Weight], arguments: GuidanceArguments) -> str:
    """The kinds of guidance and their weights in words."""
    weight, parts = variant["guidance_scale"], []
    if kind:
        parts.append(kind + (" by schedule" if callable(weight) else f" {weight:g}"))
    if "classifier" in arguments:
        parts.append(f"classifier guidance {variant['classifier_scale']:g}")
    title = " and ".join(parts) or "no guidance"
    if "guidance_interval" in arguments:
        title += " for log-SNR in [{:g}, {:g})".format(*arguments["guidance_interval"])
    if "guidance_interval_sigma" in arguments:
        title += " for σ/a in ({:g}, {:g}]".format(*arguments["guidance_interval_sigma"])
    if "guidance_rescale" in arguments:
        title += f", rescale {arguments['guidance_rescale']:g}"
    if "dynamic_thresholding" in arguments:
        title += f", dynamic thresholding {arguments['dynamic_thresholding']:g}"
    return title
