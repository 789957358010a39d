"""What a training step draws besides its images: timesteps, noise, dropped labels and mirrored images.

A pure function of (seed, step, position in the global batch), so that a run does not depend on how many processes
share a batch, and resuming needs nothing but the step number.
"""

from dataclasses import dataclass, fields

import torch

from cardiff.diffusion.randomness import DRAWS, batch_noise, numpy_generator


@dataclass(frozen=True)
class Draws:
    """The draws for b images."""

    timesteps: torch.Tensor
    """t, int64 (b,), each of 0 to T − 1 with the same probability."""
    noise: torch.Tensor
    """ε, standard normal float32 (b, C, H, W)."""
    drop: torch.Tensor
    """Whether the label is replaced by the null class, bool (b,)."""
    flip: torch.Tensor
    """Whether the image is mirrored, bool (b,)."""

    def chunk(self, parts: int) -> list["Draws"]:
        """The draws of each part of a batch that is processed in several."""
        chunks = [getattr(self, field.name).chunk(parts) for field in fields(self)]
        return [Draws(*part) for part in zip(*chunks)]


@dataclass(frozen=True)
class BatchDraws:
    """Makes the draws of this process's share of every global batch."""

    seed: int
    batch_size: int
    """Images in the global batch."""
    positions: range
    """The positions in the global batch that belong to this process."""
    num_train_timesteps: int
    """T."""
    horizontal_flip: bool = False
    """Mirror each image with probability one half."""
    label_dropout: float = 0.0
    """Probability of dropping a label."""

    def __call__(self, step: int, image_shape: tuple[int, ...], device: torch.device) -> Draws:
        """The draws of a step for images (C, H, W), on the device."""
        rng = numpy_generator(self.seed, DRAWS, step)
        share = slice(self.positions.start, self.positions.stop)
        timesteps = rng.integers(0, self.num_train_timesteps, self.batch_size)[share]
        flip = rng.random(self.batch_size)[share] < (0.5 if self.horizontal_flip else 0.0)
        drop = rng.random(self.batch_size)[share] < self.label_dropout
        on_cpu = [torch.from_numpy(values) for values in (timesteps, drop, flip)]
        if device.type == "cuda":
            on_cpu = [values.pin_memory() for values in on_cpu]  # or the copy would wait for the device
        t, dropped, mirrored = (values.to(device, non_blocking=True) for values in on_cpu)
        return Draws(t, batch_noise(self.seed, step, self.positions, image_shape, device), dropped, mirrored)
