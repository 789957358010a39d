"""The random draws of a training step other than its images: timesteps, noise, label dropout and flips.

They are a pure function of (seed, step, position in the global batch), so a run does not depend on how many processes
share a batch, and resuming needs only the step number, and the density of timesteps where that follows the losses.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from cardiff.diffusion.randomness import DRAWS, batch_noise, numpy_generator
from cardiff.diffusion.timestep_density import TimestepDensity


@dataclass(frozen=True)
class Draws:
    """The draws for b images."""

    timesteps: torch.Tensor
    """t, int64 (b,), from 0 to T − 1."""
    noise: torch.Tensor
    """ε, standard normal float32 (b, C, H, W)."""
    drop: torch.Tensor
    """Whether the label is replaced by the null class, bool (b,)."""
    flip: torch.Tensor
    """Whether the image is mirrored left to right, bool (b,)."""

    def chunk(self, parts: int) -> list["Draws"]:
        """Split the draws into the parts of a batch, for gradient accumulation."""
        chunks = [getattr(self, field.name).chunk(parts) for field in fields(self)]
        return [Draws(*part) for part in zip(*chunks)]


@dataclass(frozen=True)
class BatchDraws:
    """Draws for this process's share of every global batch."""

    seed: int
    batch_size: int
    """Images in the global batch."""
    positions: range
    """The positions in the global batch that belong to this process."""
    num_train_timesteps: int
    """T."""
    horizontal_flip: bool = False
    """Mirror each image with probability ½."""
    label_dropout: float = 0.0
    """Probability of dropping a label."""
    density: TimestepDensity | None = None
    """Of the timesteps; None for an even one."""
    visited: np.ndarray | None = None
    """The timesteps of another schedule's levels, int (T′,), drawn evenly instead of all; None for all."""

    def __call__(self, step: int, image_shape: tuple[int, ...], device: torch.device) -> Draws:
        """The draws of a step for images of shape (C, H, W), on the device."""
        rng = numpy_generator(self.seed, DRAWS, step)
        share = slice(self.positions.start, self.positions.stop)
        if self.visited is not None:
            timesteps = self.visited[rng.integers(0, len(self.visited), self.batch_size)[share]]
        elif self.density is None:
            timesteps = rng.integers(0, self.num_train_timesteps, self.batch_size)[share]
        else:
            timesteps = self.density.timesteps(rng.random(self.batch_size)[share])
        flip = rng.random(self.batch_size)[share] < (0.5 if self.horizontal_flip else 0.0)
        drop = rng.random(self.batch_size)[share] < self.label_dropout
        on_cpu = [torch.from_numpy(values) for values in (timesteps, drop, flip)]
        if device.type == "cuda":
            on_cpu = [values.pin_memory() for values in on_cpu]  # otherwise the copy would wait for the device
        t, dropped, mirrored = (values.to(device, non_blocking=True) for values in on_cpu)
        return Draws(t, batch_noise(self.seed, step, self.positions, image_shape, device), dropped, mirrored)
