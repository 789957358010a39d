"""A classifier of noised images at any timestep, for classifier guidance.

Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233, section 4): the encoder half of
a UNet with attention pooling. This file needs only torch and diffusers, so that a published checkpoint can carry it.
"""

import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from torch import nn

DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")


class AttentionPooling(nn.Module):
    """Attention pooling: the query is the mean of the features, keys and values are the features and their mean.

    AttentionPool2d of CLIP (arXiv 2103.00020, section 2.4), without its last projection, which is the classifier's
    head. That of diffusers has no positional embedding, and always takes its softmax in float32.
    """

    def __init__(self, channels: int, positions: int, heads: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.to_query = nn.Linear(channels, channels)
        self.to_key = nn.Linear(channels, channels)
        self.to_value = nn.Linear(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C)."""
        tokens = features.flatten(2).transpose(1, 2)  # (B, HW, C)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.positional_embedding
        query, key, value = self.to_query(tokens[:, :1]), self.to_key(tokens), self.to_value(tokens)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).flatten(1)  # (B, heads, 1, C/heads) -> (B, C)


class NoisyClassifier(ModelMixin, ConfigMixin):
    """p(y|x_t) for every timestep t of a noise schedule.

    The network is not given x_t = a·x₀ + σ·ε but a·x_t, with a = √ᾱ_t. For the exact posterior

        ∇ log p(y|x_t) = a/σ²·(E[x₀|x_t, y] − E[x₀|x_t]),

    so the gradient must vanish in proportion to a towards pure noise, and most solvers divide it by a. By the chain
    rule, the gradient of a function of a·x_t has this factor. That of a trained function of x_t does not, and its
    errors are amplified by 1/a, 2·10⁴ in the last step of the cosine schedule. No information is lost: for normally
    distributed classes of equal covariance, the posterior depends on x_t through (a²Σ + σ²I)⁻¹·a·x_t. On the digits,
    both inputs give the same accuracy at every level; in the last step |∇ log p|/a is 4 to 6 with a·x_t, where the
    exact value is 5, and 5,000 to 8,000 with x_t.

    Args:
        sample_size: Height and width of the images.
        in_channels: Channels of the images.
        num_classes: N.
        alphas_cumprod: ᾱ_t of the schedule, one per timestep.
        block_out_channels: Channels of each resolution, from the full size down.
        layers_per_block: ResNet blocks per resolution.
        down_block_types: One per resolution: DownBlock2D, or AttnDownBlock2D with self-attention.
        attention_head_dim: Channels per attention head, also in the pooling; None for one head.
        dropout: Dropout in every ResNet block.
        norm_num_groups: Groups of each GroupNorm.
        resnet_time_scale_shift: "default" adds the timestep's embedding to the features, "scale_shift" scales and
            shifts them by it.
        id2label: Class names by index, N of them; by default "0", "1", ….

    Raises:
        ValueError: The blocks do not fit together, or `id2label` does not name each of the N classes.
    """

    _auto_class = "AutoModel"  # makes diffusers write the class and its file into config.json

    def to_json_file(self, json_file_path: str | Path) -> None:
        """Write config.json, and beside it this source file, so that diffusers' AutoModel can load the class."""
        super().to_json_file(json_file_path)
        source = Path(inspect.getfile(type(self)))
        target = Path(json_file_path).with_name(source.name)
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)

    @classmethod
    def extract_init_dict(cls, config_dict: dict, **kwargs: Any) -> tuple[dict, dict, dict]:
        """As ConfigMixin's, but without `auto_map`, by which diffusers' AutoModel finds this file."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k != "auto_map"}, **kwargs)

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        num_classes: int,
        alphas_cumprod: Sequence[float],
        block_out_channels: Sequence[int] = (64, 128, 256, 256),
        layers_per_block: int = 2,
        down_block_types: Sequence[str] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        attention_head_dim: int | None = 64,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        resnet_time_scale_shift: str = "default",
        id2label: dict[int, str] | None = None,
    ):
        super().__init__()
        names = {int(i): str(name) for i, name in (id2label or {i: str(i) for i in range(num_classes)}).items()}
        last = block_out_channels[-1]
        head_dim = attention_head_dim or last
        _check(names, num_classes, down_block_types, block_out_channels, head_dim)
        self.id2label = {i: names[i] for i in range(num_classes)}
        self.register_to_config(id2label={str(i): name for i, name in self.id2label.items()})  # JSON keys are strings
        # Derived from the configuration, hence not saved with the weights.
        self.register_buffer("input_scale", torch.tensor(alphas_cumprod).sqrt(), persistent=False)  # a, (T,)

        embedding_dim = 4 * block_out_channels[0]
        self.time_proj = Timesteps(block_out_channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(block_out_channels[0], embedding_dim)
        self.conv_in = nn.Conv2d(in_channels, block_out_channels[0], kernel_size=3, padding=1)
        shared = {
            "temb_channels": embedding_dim,
            "dropout": dropout,
            "resnet_eps": 1e-5,
            "resnet_act_fn": "silu",
            "resnet_groups": norm_num_groups,
            "resnet_time_scale_shift": resnet_time_scale_shift,
        }
        self.down_blocks = nn.ModuleList(
            get_down_block(
                kind,
                num_layers=layers_per_block,
                in_channels=before,
                out_channels=channels,
                add_downsample=level + 1 < len(block_out_channels),
                downsample_padding=1,
                downsample_type="conv",
                attention_head_dim=attention_head_dim or channels,
                **shared,
            )
            for level, (kind, before, channels) in enumerate(
                zip(down_block_types, [block_out_channels[0], *block_out_channels], block_out_channels)
            )
        )
        self.mid_block = UNetMidBlock2D(in_channels=last, attention_head_dim=head_dim, **shared)
        self.norm_out = nn.GroupNorm(norm_num_groups, last, eps=1e-5)
        smallest = sample_size // 2 ** (len(block_out_channels) - 1)
        self.pooling = AttentionPooling(last, smallest**2, last // head_dim)
        self.head = nn.Linear(last, num_classes)

    def forward(self, sample: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
        """Logits of log p(y|x_t).

        Args:
            sample: x_t, (B, C, H, W), in the precision of the weights.
            timestep: t, one for all images or (B,).

        Returns:
            Logits (B, N).
        """
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))  # (B,)
        embedding = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        scale = self.input_scale[timesteps.long()].to(sample.dtype)  # some solvers' timesteps are whole floats
        features = self.conv_in(scale[:, None, None, None] * sample)
        for block in self.down_blocks:
            features, _ = block(features, embedding)
        features = self.mid_block(features, embedding)  # (B, C', H', W')
        return self.head(self.pooling(F.silu(self.norm_out(features))))


def _check(
    names: dict[int, str], num_classes: int, types: Sequence[str], channels: Sequence[int], head_dim: int
) -> None:
    """Refuse arguments that torch and diffusers accept wrongly, or refuse without a clear message."""
    if sorted(names) != list(range(num_classes)):
        raise ValueError(
            f"id2label names the classes {sorted(names)}, but the classifier has the classes 0 to {num_classes - 1}: "
            "give every class one name."
        )
    unknown = [kind for kind in types if kind not in DOWN_BLOCK_TYPES]
    if unknown or len(types) != len(channels):
        raise ValueError(
            f"down_block_types is {list(types)}, but must give one of {' and '.join(DOWN_BLOCK_TYPES)} for each of "
            f"{len(channels)} resolutions."
        )
    if channels[-1] % head_dim:
        raise ValueError(f"attention_head_dim={head_dim} must divide the last of block_out_channels, {channels[-1]}.")
