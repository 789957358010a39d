"""Random numbers as a function of (seed, purpose, step, position), without any generator state to save.

A run therefore does not depend on how many processes share a batch, and resuming needs only the step number.
"""

import numpy as np
import torch

# A number for each purpose, so that the streams of one seed are independent.
WEIGHTS, ORDER, DRAWS, NOISE, DROPOUT, SAMPLES, HELD_OUT = range(7)

NOISE_BLOCK = 16
"""Images per block of noise. Each process draws only the blocks that overlap its share of the batch."""


def derive_seed(*keys: int) -> int:
    """A 63-bit seed from non-negative integers, by NumPy's SeedSequence hash."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def numpy_generator(*keys: int) -> np.random.Generator:
    """A counter-based NumPy generator for these keys."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(keys)))


def batch_noise(
    seed: int, step: int, positions: range, image_shape: tuple, device: torch.device | str
) -> torch.Tensor:
    """Standard normal noise for these positions of a step's global batch, float32 (len(positions), *image_shape)."""
    blocks = range(positions.start // NOISE_BLOCK, -(-positions.stop // NOISE_BLOCK))
    generator = torch.Generator(device)
    drawn = []
    for block in blocks:
        generator.manual_seed(derive_seed(seed, NOISE, step, block))
        drawn.append(torch.randn(NOISE_BLOCK, *image_shape, generator=generator, device=device))
    first = positions.start - blocks.start * NOISE_BLOCK
    return torch.cat(drawn)[first : first + len(positions)]


def image_generator(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index`, on the CPU so that every device starts from the same noise."""
    return torch.Generator().manual_seed(image_seed(seed, index))


def image_seed(seed: int, index: int) -> int:
    """The seed of sample `index`, as recorded in the manifest."""
    return derive_seed(seed, SAMPLES, index)
