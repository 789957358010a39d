"""UNets, classifiers and pipelines as the configuration asks for them."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.config import RunConfig
from cardiff.randomness import WEIGHTS, derive_seed
from pipelines import ClassConditionalPipeline, NoisyClassifier


def build_unet(config: RunConfig, num_classes: int | None) -> UNet2DModel:
    """The UNet of a run, with weights drawn from its seed.

    With N classes it has N + 1 class embeddings, of which the last is the null class, "no label" (arXiv 2207.12598).
    `num_classes=None` builds the unconditional one.

    Raises:
        ValueError: The `unet` section does not describe a UNet2DModel.
    """
    torch.manual_seed(derive_seed(config.train.seed, WEIGHTS))
    try:
        return UNet2DModel(
            sample_size=config.data.resolution,
            in_channels=config.data.channels,
            out_channels=config.data.channels,
            num_class_embeds=None if num_classes is None else num_classes + 1,
            **asdict(config.network),
        )
    except (ValueError, AttributeError) as error:
        raise ValueError(f"The section unet does not describe a UNet2DModel: {error}") from error


def build_classifier(config: RunConfig, scheduler: DDPMScheduler, class_names: Sequence[str]) -> NoisyClassifier:
    """The classifier of a run, for the noise levels of `scheduler`, with weights drawn from the run's seed.

    Raises:
        ValueError: The `classifier` section does not describe a NoisyClassifier.
    """
    torch.manual_seed(derive_seed(config.train.seed, WEIGHTS))
    try:
        return NoisyClassifier(
            sample_size=config.data.resolution,
            in_channels=config.data.channels,
            num_classes=len(class_names),
            alphas_cumprod=scheduler.alphas_cumprod.tolist(),
            id2label=dict(enumerate(class_names)),
            **asdict(config.network),
        )
    except ValueError as error:
        raise ValueError(f"The section classifier does not describe a NoisyClassifier: {error}") from error


def null_class(unet: UNet2DModel) -> int | None:
    """Index of the null class, or None for an unconditional UNet."""
    return None if unet.config.num_class_embeds is None else unet.config.num_class_embeds - 1


def build_pipeline(unet: UNet2DModel, scheduler: SchedulerMixin, class_names: Sequence[str]) -> DiffusionPipeline:
    """The pipeline that is saved: ours for a conditional UNet, a stock DDPMPipeline for an unconditional one."""
    if unet.config.num_class_embeds is None:
        return DDPMPipeline(unet, scheduler)
    return ClassConditionalPipeline(unet, scheduler, dict(enumerate(class_names)))
