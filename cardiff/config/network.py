"""The sections `unet` and `classifier`: the networks that a run trains. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cardiff.config.limits import check_limits, limited, option
from cardiff.config.sections import DataConfig
from cardiff.errors import UserError

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D")


@dataclass
class NetworkConfig:
    """The way down, which a UNet and a classifier have in common."""

    section: ClassVar[str]
    """Name of the section in a configuration."""

    block_out_channels: list[int] = limited([64, 128, 256, 256], least=1)
    """Channels of each resolution, from the full size down; the length is the number of resolutions."""
    layers_per_block: int = limited(2, least=1)
    """ResNet blocks per resolution on the way down (a UNet has one more on the way up)."""
    down_block_types: list[str] = option(["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"])
    """One per resolution: DownBlock2D, or AttnDownBlock2D with self-attention."""
    attention_head_dim: int | None = limited(64, least=1)
    """Channels per attention head, also in a classifier's pooling; null for one head."""
    dropout: float = limited(0.0, least=0, below=1)
    """Dropout in every ResNet block."""
    norm_num_groups: int = limited(32, least=1)
    """Groups of each GroupNorm; divides every entry of block_out_channels."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Add the embedding of timestep and class to the features, or scale and shift them by it (AdaGN)."""

    def check(self, data: DataConfig) -> None:
        """Refuse numbers without meaning, and what does not fit together or does not fit the images.

        Raises:
            UserError: In one sentence.
        """
        check_limits(self, f"{self.section}.")
        if not self.block_out_channels:
            raise UserError(f"{self.section}.block_out_channels is empty: give the channels of each resolution.")
        self._check_blocks("down_block_types", self.down_block_types, DOWN_BLOCKS)
        levels = len(self.block_out_channels)
        if data.resolution % 2 ** (levels - 1):
            raise UserError(
                f"data.resolution is {data.resolution}, but the network's {levels} resolutions halve it {levels - 1} "
                f"times: make it a multiple of {2 ** (levels - 1)} or shorten {self.section}.block_out_channels."
            )
        odd = [channels for channels in self.block_out_channels if channels % self.norm_num_groups]
        if odd:
            raise UserError(
                f"{self.section}.norm_num_groups is {self.norm_num_groups}, which does not divide the {odd[0]} of "
                f"{self.section}.block_out_channels: give a number that divides each of them."
            )
        attending = self.attending()
        if self.attention_head_dim is not None and attending and self.attention_head_dim > min(attending):
            raise UserError(
                f"{self.section}.attention_head_dim is {self.attention_head_dim}, but a block with attention has only "
                f"{min(attending)} channels: give a smaller number, or null for one head."
            )

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention."""
        pairs = zip(self.block_out_channels, self.down_block_types)
        return [channels for channels, kind in pairs if kind.startswith("Attn")]

    def _check_blocks(self, name: str, blocks: list[str], known: tuple[str, ...]) -> None:
        """Every resolution has its kind of block."""
        levels = len(self.block_out_channels)
        if len(blocks) != levels:
            raise UserError(
                f"{self.section}.{name} lists {len(blocks)} blocks and {self.section}.block_out_channels {levels}: "
                "give one for each resolution."
            )
        unknown = [block for block in blocks if block not in known]
        if unknown:
            raise UserError(f"{self.section}.{name} names {unknown[0]!r}: choose from {' and '.join(known)}.")


@dataclass
class UNetConfig(NetworkConfig):
    """Arguments of diffusers' UNet2DModel; size and channels follow from `data`, class embeddings from the labels."""

    section: ClassVar[str] = "unet"

    up_block_types: list[str] = option(["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"])
    """The mirror image of down_block_types: UpBlock2D or AttnUpBlock2D."""
    downsample_type: Literal["conv", "resnet"] = "conv"
    """Strided convolution, or a ResNet block that downsamples."""
    upsample_type: Literal["conv", "resnet"] = "conv"
    """Convolution after nearest-neighbour upsampling, or a ResNet block that upsamples."""
    add_attention: bool = True
    """Self-attention in the middle block."""

    def check(self, data: DataConfig) -> None:
        """As of any network, and the way up has its blocks."""
        super().check(data)
        self._check_blocks("up_block_types", self.up_block_types, UP_BLOCKS)

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention: on the way down, on the way up and in the middle."""
        pairs = zip(reversed(self.block_out_channels), self.up_block_types)
        up = [channels for channels, kind in pairs if kind.startswith("Attn")]
        return super().attending() + up + (self.block_out_channels[-1:] if self.add_attention else [])


@dataclass
class ClassifierConfig(NetworkConfig):
    """Arguments of NoisyClassifier; size, channels, classes and noise levels follow from `data` and `scheduler`."""

    section: ClassVar[str] = "classifier"

    def check(self, data: DataConfig) -> None:
        """As of any network, and the heads of its pooling divide their channels."""
        super().check(data)
        width, last = self.attention_head_dim, self.block_out_channels[-1]
        if width is not None and last % width:
            raise UserError(
                f"classifier.attention_head_dim is {width}, which does not divide the last of "
                f"classifier.block_out_channels, {last}: give a number that does, or null for one head."
            )

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention, the pooling at the end included."""
        return [*super().attending(), self.block_out_channels[-1]]
