"""Random numbers do not depend on how the work is shared out, and on everything else they do."""

import itertools

import numpy as np
import pytest
import torch

from cardiff.diffusion import randomness
from cardiff.diffusion.randomness import batch_noise, derive_seed, image_generator, image_seed, numpy_generator

SHAPE = (2, 3, 3)
SPLITS = [[0, 64], [0, 16, 32, 48, 64], [0, 32, 64], [0, 10, 64], [0, 1, 17, 33, 63, 64], list(range(65))]


@pytest.mark.parametrize("borders", SPLITS)
def test_noise_does_not_depend_on_the_split(borders):
    whole = batch_noise(3, 7, range(64), SHAPE, "cpu")
    parts = [batch_noise(3, 7, range(*pair), SHAPE, "cpu") for pair in itertools.pairwise(borders)]
    assert whole.shape == (64, *SHAPE) and whole.dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_noise_of_a_larger_batch_begins_alike():
    small, large = (batch_noise(0, 0, range(size), SHAPE, "cpu") for size in (20, 50))
    torch.testing.assert_close(large[:20], small, rtol=0, atol=0)


@pytest.mark.parametrize("other", [(4, 7), (3, 8), (7, 3)])
def test_noise_differs_between_seeds_and_steps(other):
    one, two = batch_noise(3, 7, range(32), SHAPE, "cpu"), batch_noise(*other, range(32), SHAPE, "cpu")
    assert not (one == two).any()


def test_no_two_images_of_a_batch_share_their_noise():
    noise = batch_noise(0, 0, range(64), (16, 16), "cpu").flatten(1)
    correlation = torch.corrcoef(noise) - torch.eye(64)
    assert correlation.abs().max() < 6 / 16  # six standard errors for 256 pixels


def test_noise_is_standard_normal():
    noise = batch_noise(1, 2, range(64), (32, 32), "cpu").double()
    error = 1 / noise.numel() ** 0.5
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert noise.pow(power).mean().item() == pytest.approx(moment, abs=5 * error * variance**0.5)


def test_noise_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    batch_noise(0, 0, range(4), SHAPE, "cpu")
    image_generator(0, 0)
    torch.testing.assert_close(torch.randn(3), expected, rtol=0, atol=0)


def test_seeds_are_distinct_and_fit():
    keys = [*itertools.product(range(4), range(4), range(4), range(4)), (2**40, 0, 0, 5)]
    seeds = {derive_seed(*key) for key in keys}
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(seeds) == len(keys)


def test_seeds_are_pinned():
    """Runs and manifests of the past rely on these numbers."""
    assert derive_seed(0, 1, 2) == int(np.random.SeedSequence([0, 1, 2]).generate_state(1, np.uint64)[0]) // 2
    assert (image_seed(0, 0), image_seed(0, 1)) == (6102389744414414618, 2919813369553411398)


def test_purposes_have_their_own_streams():
    purposes = [getattr(randomness, name) for name in ("WEIGHTS", "ORDER", "DRAWS", "NOISE", "DROPOUT", "SAMPLES")]
    assert len(set(purposes)) == 6
    first = {float(numpy_generator(0, purpose, 0).random()) for purpose in purposes}
    assert len(first) == 6


def test_the_manifest_seed_is_the_generator_seed():
    generator = image_generator(5, 9)
    assert generator.initial_seed() == image_seed(5, 9) and generator.device.type == "cpu"
    expected = torch.randn(4, generator=torch.Generator().manual_seed(image_seed(5, 9)))
    torch.testing.assert_close(torch.randn(4, generator=generator), expected, rtol=0, atol=0)
