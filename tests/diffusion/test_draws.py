"""The draws of a step as a function of (seed, step, position): at the right rates, however the batch is split."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from cardiff.diffusion.draws import BatchDraws, Draws
from cardiff.diffusion.randomness import batch_noise
from cardiff.diffusion.timestep_density import TimestepDensity

PLAN = BatchDraws(
    seed=0, batch_size=16, positions=range(16), num_train_timesteps=1000, horizontal_flip=True, label_dropout=0.1
)
FOLLOWING = replace(PLAN, density=TimestepDensity("loss", DDPMScheduler(), torch.ones(1000)))
FOLLOWING.density.probabilities = np.repeat([0.0, 0.1], [990, 10])
CPU, SHAPE = torch.device("cpu"), (1, 2, 2)
NAMES = [field.name for field in fields(Draws)]


def assert_equal(one: Draws, other: Draws) -> None:
    for name in NAMES:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def joined(parts: list[Draws]) -> Draws:
    return Draws(**{name: torch.cat([getattr(part, name) for part in parts]) for name in NAMES})


def test_contents():
    draws = PLAN(2, SHAPE, CPU)
    assert {name: (getattr(draws, name).dtype, tuple(getattr(draws, name).shape)) for name in NAMES} == {
        "timesteps": (torch.int64, (16,)),
        "noise": (torch.float32, (16, 1, 2, 2)),
        "drop": (torch.bool, (16,)),
        "flip": (torch.bool, (16,)),
    }
    torch.testing.assert_close(draws.noise, batch_noise(0, 2, range(16), SHAPE, CPU), rtol=0, atol=0)


def test_they_are_what_they_have_always_been():
    """Recorded once: other draws would be another run for the same seed."""
    draws = replace(PLAN, label_dropout=0.5)(7, SHAPE, CPU)
    assert draws.timesteps.tolist() == [639, 934, 9, 224, 526, 610, 660, 499, 120, 122, 758, 432, 630, 943, 281, 149]
    assert draws.flip.int().tolist() == [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1]
    assert draws.drop.int().tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("borders", [[0, 8, 16], [0, 4, 8, 12, 16], [0, 3, 16], list(range(17))])
@pytest.mark.parametrize("plan", [PLAN, FOLLOWING], ids=["even", "following"])
def test_shares_make_up_the_whole(plan, borders):
    for step in (0, 2, 5):
        shares = [replace(plan, positions=range(*ends))(step, SHAPE, CPU) for ends in zip(borders, borders[1:])]
        assert_equal(joined(shares), plan(step, SHAPE, CPU))


def test_timesteps_can_have_a_density():
    """Here one that draws the last ten timesteps alone."""
    drawn = torch.cat([FOLLOWING(step, SHAPE, CPU).timesteps for step in range(20)])
    assert drawn.min() == 990 and drawn.max() == 999 and len(set(drawn.tolist())) == 10
    assert drawn.dtype == torch.int64


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_chunks_make_up_the_whole(parts):
    draws = PLAN(3, SHAPE, CPU)
    chunks = draws.chunk(parts)
    assert [len(chunk.timesteps) for chunk in chunks] == [16 // parts] * parts
    assert_equal(joined(chunks), draws)


def test_seeds_and_steps_differ():
    draws = [replace(PLAN, seed=seed)(step, SHAPE, CPU) for seed, step in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 37))]
    for name in ("timesteps", "flip", "noise"):
        assert len({getattr(draw, name).numpy().tobytes() for draw in draws}) == len(draws)
    assert_equal(PLAN(0, SHAPE, CPU), draws[0])


def many_draws(plan: BatchDraws, steps: int = 400) -> dict[str, torch.Tensor]:
    draws = [plan(step, (1, 1, 1), CPU) for step in range(steps)]
    names = ("timesteps", "flip", "drop")
    return {name: torch.stack([getattr(draw, name) for draw in draws]).double() for name in names}  # (steps, B)


def test_rates_and_independence_of_the_draws():
    """Five standard errors around what independent draws for each image would give."""
    plan = replace(PLAN, batch_size=64, positions=range(64), label_dropout=0.1)
    draws, count = many_draws(plan), 400 * 64
    for name, p in (("drop", 0.1), ("flip", 0.5)):
        assert draws[name].mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5)
        # Images of a batch are drawn one by one: their number in a batch has the binomial variance 64·p(1 − p).
        expected = 64 * p * (1 - p)
        assert draws[name].sum(1).var().item() == pytest.approx(expected, rel=5 * (2 / 400) ** 0.5)
        # And no position is preferred.
        assert (draws[name].mean(0) - p).abs().max().item() < 5 * (p * (1 - p) / 400) ** 0.5
    timesteps = draws["timesteps"]
    assert timesteps.min() == 0 and timesteps.max() == 999
    tenths = torch.bincount((timesteps.flatten() // 100).long()).double() / count
    assert (tenths - 0.1).abs().max().item() < 5 * (0.1 * 0.9 / count) ** 0.5
    correlation = torch.corrcoef(torch.stack([draws[name].flatten() for name in ("timesteps", "flip", "drop")]))
    assert (correlation - torch.eye(3, dtype=torch.float64)).abs().max().item() < 5 / count**0.5


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_dropout_of_none_and_of_all(rate):
    assert (many_draws(replace(PLAN, label_dropout=rate), 20)["drop"] == rate).all()


def test_no_flips_unless_asked():
    assert not many_draws(replace(PLAN, horizontal_flip=False), 20)["flip"].any()


def test_options_do_not_shift_the_other_draws():
    one, two = (plan(3, SHAPE, CPU) for plan in (PLAN, replace(PLAN, horizontal_flip=False, label_dropout=0.9)))
    torch.testing.assert_close(one.timesteps, two.timesteps, rtol=0, atol=0)
    torch.testing.assert_close(one.noise, two.noise, rtol=0, atol=0)
    assert (one.drop <= two.drop).all()  # more labels dropped, none taken back
