"""Models small enough for a test: a UNet of a few thousand weights, and denoisers that know the exact answer."""

import numpy as np
import torch
from diffusers import UNet2DModel

from cardiff.analysis.ideal import IdealUNet
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.schedulers import CosineScheduler

NAMES = {0: "ant", 1: "bee", 2: "cat, black"}


def tiny_unet(num_classes: int | None = 3, channels: int = 1, seed: int = 0) -> UNet2DModel:
    """8x8 images, two resolutions, random weights; without classes for None."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=None if num_classes is None else num_classes + 1,
    ).eval()


def tiny_pipeline(scheduler=None, id2label=NAMES, channels: int = 1) -> ClassConditionalPipeline:
    """A pipeline around the tiny UNet, with the cosine schedule if nothing else is given."""
    scheduler = scheduler or CosineScheduler(prediction_type="v_prediction").to_stock()
    pipeline = ClassConditionalPipeline(tiny_unet(len(id2label), channels), scheduler, id2label)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def gaussian_pipeline(trained, scheduler, means, variances, sample_size) -> ClassConditionalPipeline:
    """The pipeline around the exact denoiser of pixels that are independent normals: per class, then of no class.

    It knows the noise levels of `trained` and is sampled by `scheduler`.
    """
    images = np.multiply.outer(np.array(means), np.ones((1, sample_size, sample_size)))  # (K, 1, H, W)
    pipeline = ClassConditionalPipeline(IdealUNet(images, variances, trained, np.eye(len(means))), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
