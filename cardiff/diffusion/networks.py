"""Builds UNets, classifiers and pipelines from a configuration."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.config.run import RunConfig
from cardiff.diffusion.randomness import WEIGHTS, derive_seed
from cardiff.errors import UserError
from cardiff.pipelines import ClassConditionalPipeline, NoisyClassifier

Network = TypeVar("Network", bound=ModelMixin)


def build_unet(config: RunConfig, num_classes: int | None) -> UNet2DModel:
    """The UNet of a run, with weights drawn from its seed.

    With N classes it has N + 1 class embeddings; the last is the null class, "no label" (arXiv 2207.12598).
    `num_classes=None` builds an unconditional UNet.

    Raises:
        UserError: UNet2DModel cannot be built from the `unet` section.
    """
    return _build(
        UNet2DModel,
        config,
        out_channels=config.data.channels,
        num_class_embeds=None if num_classes is None else num_classes + 1,
    )


def build_classifier(config: RunConfig, scheduler: DDPMScheduler, class_names: Sequence[str]) -> NoisyClassifier:
    """The classifier of a run, for the noise levels of `scheduler`, with weights drawn from the run's seed.

    Raises:
        UserError: NoisyClassifier cannot be built from the `classifier` section.
    """
    return _build(
        NoisyClassifier,
        config,
        num_classes=len(class_names),
        alphas_cumprod=scheduler.alphas_cumprod.tolist(),
        id2label=dict(enumerate(class_names)),
    )


def _build(network: type[Network], config: RunConfig, **arguments: Any) -> Network:
    """A network for the run's images, with the arguments of its section and weights drawn from the run's seed."""
    torch.manual_seed(derive_seed(config.train.seed, WEIGHTS))
    images = {"sample_size": config.data.resolution, "in_channels": config.data.channels}
    try:
        return network(**images, **arguments, **asdict(config.network))
    except (ValueError, AttributeError) as error:
        section = config.network_name
        raise UserError(f"The section {section} is not valid for {network.__name__}: {error}") from error


def null_class(unet: UNet2DModel) -> int | None:
    """Index of the null class, or None for an unconditional UNet."""
    return None if unet.config.num_class_embeds is None else unet.config.num_class_embeds - 1


def build_pipeline(unet: UNet2DModel, scheduler: SchedulerMixin, class_names: Sequence[str]) -> DiffusionPipeline:
    """The pipeline to save: ClassConditionalPipeline for a conditional UNet, DDPMPipeline for an unconditional one."""
    if unet.config.num_class_embeds is None:
        return DDPMPipeline(unet, scheduler)
    return ClassConditionalPipeline(unet, scheduler, dict(enumerate(class_names)))
