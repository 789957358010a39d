"""The sections `unet` and `classifier`: the network that a run trains. Nothing here needs torch."""

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
    """The downsampling path, which a UNet and a classifier have in common."""

    section: ClassVar[str]
    """Name of the section in a configuration."""

    block_out_channels: list[int] = limited([64, 128, 256, 256], least=1)
    """Channels at each resolution, from full resolution down; the length is the number of resolutions."""
    layers_per_block: int = limited(2, least=1)
    """ResNet blocks per resolution in the downsampling path (a UNet's upsampling path has one more)."""
    down_block_types: list[str] = option(["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"])
    """One per resolution: DownBlock2D, or AttnDownBlock2D with self-attention."""
    attention_head_dim: int | None = limited(64, least=1)
    """Channels per attention head, also in a classifier's pooling; null for one head."""
    dropout: float = limited(0.0, least=0, below=1)
    """Dropout in every ResNet block."""
    norm_num_groups: int = limited(32, least=1)
    """Groups of each GroupNorm; must divide every entry of block_out_channels."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Add the timestep and class embedding to the features, or scale and shift them by it (AdaGN)."""

    def check(self, data: DataConfig) -> None:
        """Check the ranges of the numbers, and that the options fit together and fit the images.

        Raises:
            UserError: A check fails; the message names the option and the remedy.
        """
        check_limits(self, f"{self.section}.")
        if not self.block_out_channels:
            raise UserError(f"{self.section}.block_out_channels is empty: give the channels of each resolution.")
        self._check_blocks("down_block_types", self.down_block_types, DOWN_BLOCKS)
        levels = len(self.block_out_channels)
        if data.resolution % 2 ** (levels - 1):
            raise UserError(
                f"data.resolution is {data.resolution}, but the network's {levels} resolutions halve it {levels - 1} "
                f"times: use a multiple of {2 ** (levels - 1)}, or shorten {self.section}.block_out_channels."
            )
        odd = [channels for channels in self.block_out_channels if channels % self.norm_num_groups]
        if odd:
            raise UserError(
                f"{self.section}.norm_num_groups is {self.norm_num_groups}, which does not divide {odd[0]} in "
                f"{self.section}.block_out_channels: choose a number that divides all of them."
            )
        attending = self.attending()
        if self.attention_head_dim is not None and attending and self.attention_head_dim > min(attending):
            raise UserError(
                f"{self.section}.attention_head_dim is {self.attention_head_dim}, but a block with attention has only "
                f"{min(attending)} channels: choose a smaller number, or null for one head."
            )

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention."""
        pairs = zip(self.block_out_channels, self.down_block_types)
        return [channels for channels, kind in pairs if kind.startswith("Attn")]

    def _check_blocks(self, name: str, blocks: list[str], known: tuple[str, ...]) -> None:
        """Check that there is a known block type for each resolution."""
        levels = len(self.block_out_channels)
        if len(blocks) != levels:
            raise UserError(
                f"{self.section}.{name} has {len(blocks)} entries, but {self.section}.block_out_channels has "
                f"{levels}: give one for each resolution."
            )
        unknown = [block for block in blocks if block not in known]
        if unknown:
            raise UserError(f"{self.section}.{name} lists {unknown[0]!r}: choose from {' and '.join(known)}.")


@dataclass
class UNetConfig(NetworkConfig):
    """Arguments of diffusers' UNet2DModel; size and channels come from `data`, class embeddings from the labels."""

    section: ClassVar[str] = "unet"

    up_block_types: list[str] = option(["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"])
    """The mirror image of down_block_types: UpBlock2D or AttnUpBlock2D."""
    downsample_type: Literal["conv", "resnet"] = "conv"
    """Strided convolution, or a ResNet block that downsamples."""
    upsample_type: Literal["conv", "resnet"] = "conv"
    """Convolution after nearest-neighbour upsampling, or a ResNet block that upsamples."""
    add_attention: bool = True
    """Self-attention in the middle block."""
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    """The middle block; null for none."""
    mid_block_scale_factor: float = limited(1.0, above=0)
    """What the sum of a branch and its input is divided by in the middle block."""
    attn_norm_num_groups: int | None = limited(None, least=1)
    """Groups of the GroupNorm before the attention of the middle block; null for norm_num_groups."""
    norm_eps: float = limited(1e-5, above=0)
    """ε of each GroupNorm."""
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    """Activation function."""
    downsample_padding: int = limited(1, least=0, most=1)
    """Padding of the strided convolutions; 0 pads below and to the right only, as in the code of DDPM."""
    center_input_sample: bool = False
    """Map the input from [0, 1] to [-1, 1] first."""
    time_embedding_type: Literal["positional", "learned"] = "positional"
    """Sines and cosines of the timestep, or a table, which needs num_train_timesteps."""
    time_embedding_dim: int | None = limited(None, least=1)
    """Length of the timestep's embedding; null for four times the first of block_out_channels."""
    freq_shift: int = limited(0, least=0, most=1)
    """Change of the divisor in the exponents of the frequencies of the sines; 1 in the code of DDPM."""
    flip_sin_to_cos: bool = True
    """Put the cosines before the sines; false in the code of DDPM."""
    num_train_timesteps: int | None = limited(None, least=1)
    """Rows of the table of a learned embedding."""

    def check(self, data: DataConfig) -> None:
        """Check any network's options, and the block types of the upsampling path."""
        super().check(data)
        self._check_blocks("up_block_types", self.up_block_types, UP_BLOCKS)
        if (self.time_embedding_type == "learned") != (self.num_train_timesteps is not None):
            raise UserError(
                f"unet.time_embedding_type is {self.time_embedding_type} and unet.num_train_timesteps is "
                f"{self.num_train_timesteps}: a learned embedding needs the number, and only it does."
            )

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention in the downsampling path, the upsampling path and the middle."""
        pairs = zip(reversed(self.block_out_channels), self.up_block_types)
        up = [channels for channels, kind in pairs if kind.startswith("Attn")]
        return super().attending() + up + (self.block_out_channels[-1:] if self.add_attention else [])


@dataclass
class ClassifierConfig(NetworkConfig):
    """Arguments of NoisyClassifier; size, channels, classes and noise levels come from `data` and `scheduler`."""

    section: ClassVar[str] = "classifier"

    def check(self, data: DataConfig) -> None:
        """Check any network's options, and that the attention pooling's heads divide its channels."""
        super().check(data)
        width, last = self.attention_head_dim, self.block_out_channels[-1]
        if width is not None and last % width:
            raise UserError(
                f"classifier.attention_head_dim is {width}, which does not divide {last}, the last of "
                "classifier.block_out_channels: choose a number that does, or null for one head."
            )

    def attending(self) -> list[int]:
        """Channels of the blocks with self-attention, including the pooling at the end."""
        return [*super().attending(), self.block_out_channels[-1]]
