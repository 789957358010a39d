"""Models small enough for a test: a UNet of a few thousand weights, and denoisers that know the exact answer."""

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from pipelines import ClassConditionalPipeline
from schedulers import CosineScheduler

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


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """The exact denoiser, in float64, of pixels that are independent normals: per class, then of the null class.

    ε* = σ(x − aμ)/V and x̂₀ = μ + as²(x − aμ)/V with V = ᾱs² + σ²; v follows from them.
    """

    @register_to_config
    def __init__(self, means, variances, alphas_cumprod, sample_size, prediction_type="epsilon"):
        super().__init__()
        self.register_to_config(in_channels=1, num_class_embeds=len(means))
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # what dtype and device are read from
        self.means, self.variances = (torch.tensor(v, dtype=torch.float64) for v in (means, variances))
        self.alphas_cumprod = torch.tensor(alphas_cumprod, dtype=torch.float64)

    def forward(self, x, t, class_labels):
        mean, variance = (v[class_labels].view(-1, 1, 1, 1) for v in (self.means, self.variances))
        # Euler and Heun take timesteps between two integers only in their interpolated modes, which are not used here.
        signal = self.alphas_cumprod[int(t)]
        a, sigma = signal.sqrt(), (1 - signal).sqrt()
        centred = (x - a * mean) / (signal * variance + sigma**2)
        epsilon, clean = sigma * centred, mean + a * variance * centred
        outputs = {"epsilon": epsilon, "sample": clean, "v_prediction": a * epsilon - sigma * clean}
        return UNet2DOutput(outputs[self.config.prediction_type])


def gaussian_pipeline(trained, scheduler, means, variances, sample_size) -> ClassConditionalPipeline:
    """The pipeline around the exact denoiser, for the noise levels of `trained`, sampled by `scheduler`."""
    unet = GaussianDenoiser(
        means, variances, trained.alphas_cumprod.tolist(), sample_size, trained.config.prediction_type
    )
    pipeline = ClassConditionalPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
