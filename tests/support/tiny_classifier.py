"""A classifier of noised images small enough for a test."""

import torch

from cardiff.pipelines import NoisyClassifier
from cardiff.schedulers import CosineScheduler

ALPHAS_CUMPROD = CosineScheduler().alphas_cumprod
NAMES = {0: "ant", 1: "bee", 2: "cat, black"}


def tiny_classifier(**options) -> NoisyClassifier:
    """8x8 images, two resolutions, random weights."""
    torch.manual_seed(0)
    tiny = {
        "sample_size": 8,
        "in_channels": 1,
        "num_classes": 3,
        "alphas_cumprod": ALPHAS_CUMPROD.tolist(),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "id2label": NAMES,
    }
    return NoisyClassifier(**{**tiny, **options}).eval()
