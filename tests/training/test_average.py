"""The average of the weights: diffusers' numbers, in one pass."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from cardiff.training.average import WeightAverage


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999, 1.0])
def test_it_is_that_of_diffusers(decay):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator).double()) for shape in ((3, 5), (7,), ())]
    ours, theirs = WeightAverage(weights, decay=decay), EMAModel(weights, decay=decay)
    for _ in range(40):
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn(weight.shape, generator=generator))
        ours.step(weights)
        theirs.step(weights)
        torch.testing.assert_close(ours.shadow_params, theirs.shadow_params, rtol=1e-13, atol=1e-13)
    assert ours.optimization_step == theirs.optimization_step == 40


def test_the_first_step_takes_the_weights_and_the_second_little_of_them():
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = WeightAverage([weight], decay=0.9999)
    seen = []
    for value in (1.0, 0.0, 1.0):
        with torch.no_grad():
            weight.fill_(value)
        average.step([weight])
        seen.append(average.shadow_params[0].item())
    assert seen == pytest.approx([1.0, 2 / 11, 2 / 11 + 9 / 12 * (1 - 2 / 11)])
