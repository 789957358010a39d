"""What devices compute fast: batch sizes by default."""

import pytest
import torch

from cardiff.devices import batch_size_for


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(8, 512), (16, 512), (28, 256), (32, 256), (64, 64), (96, 16), (128, 16), (256, 8), (1024, 8)],
)
def test_the_batch_size_by_default_has_about_as_many_pixels_at_every_resolution(resolution, size):
    assert batch_size_for(None, resolution, torch.device("cuda")) == size
    assert batch_size_for(None, resolution, torch.device("cpu")) == 64


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_given_batch_size_is_taken(device):
    assert batch_size_for(7, 32, torch.device(device)) == 7
