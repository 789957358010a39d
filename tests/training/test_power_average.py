"""Averages by power functions: their shares, their widths, and averages of other widths from snapshots."""

import numpy as np
import pytest
import torch

from cardiff.training import power_average
from cardiff.training.power_average import PowerAverage, combination, exponent_of, shares

KEPT = (0.05, 0.10)


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94), (0.15, 3.56), (0.2, 1.83)])
def test_the_exponent_of_a_width(width, exponent):
    """The values of the paper's text for 0.05 and 0.10, and the width itself from a long profile."""
    assert exponent_of(width) == pytest.approx(exponent, abs=0.01)
    times = np.arange(1, 200_001, dtype=np.float64)
    profile = shares(width, 200_000, times)
    assert profile.sum() == pytest.approx(1, abs=1e-12)
    place = (times - 0.5) / 200_000
    mean = (profile * place).sum()
    assert np.sqrt((profile * (place - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0, -0.1, 0.29, 1, float("nan")])
def test_other_widths_are_refused(width):
    with pytest.raises(ValueError, match="must lie above 0 and be 0.28 or less"):
        exponent_of(width)


def trajectory(steps, seed=0):
    """Weights (steps, 3) in float64 that wander and settle, as in training."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(steps, 3)) * (1 / np.sqrt(1 + np.arange(steps)))[:, None]
    return np.array([1.0, -2.0, 0.5]) + np.cumsum(noise, 0) * 0.1


def tracked(weights, width):
    """The average after every step, by the class; (steps, 3)."""
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average, found = PowerAverage([parameter], width), []
    for step, value in enumerate(weights, 1):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))
        average.step([parameter], step)
        found.append(average.tensors[0].numpy().copy())
    return np.array(found)


@pytest.mark.parametrize("width", [0.05, 0.2])
def test_an_average_is_the_sum_of_its_shares(width):
    weights = trajectory(300)
    found = tracked(weights, width)
    np.testing.assert_array_equal(found[0], weights[0])  # nothing of the initial weights is left
    for step in (1, 2, 50, 300):
        expected = shares(width, step, np.arange(1, 301, dtype=np.float64)) @ weights
        np.testing.assert_allclose(found[step - 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [0.04, 0.05, 0.075, 0.10, 0.15, 0.2])
def test_any_width_is_made_from_snapshots(width):
    """To 1e-6 for constant weights and 2e-4 of their movement for a random walk, with 20 snapshots of each width."""
    steps = 2000
    kept = [(each, step) for each in KEPT for step in range(100, steps + 1, 100)]
    factors, miss = combination(kept, width, steps)
    assert factors.sum() == pytest.approx(1, abs=1e-9)
    for weights in (np.full((steps, 3), 7.0), trajectory(steps)):
        averages = {each: tracked(weights, each) for each in KEPT}
        made = sum(factor * averages[each][step - 1] for factor, (each, step) in zip(factors, kept))
        expected = tracked(weights, width)[-1]
        moved = weights.max(0) - weights.min(0)
        assert np.abs(made - expected).max() <= 1e-6 * 7 + 1e-2 * miss + 2e-4 * moved.max()
        assert (np.abs(made - expected) <= miss * moved + 1e-6 * np.abs(expected)).all()  # Hölder's inequality
    assert miss < 0.02


def test_long_runs_are_taken_in_chunks(monkeypatch):
    kept = [(each, step) for each in KEPT for step in range(100, 1001, 100)]
    whole, missed = combination(kept, 0.07, 1000)
    monkeypatch.setattr(power_average, "CHUNK", 64)
    factors, of_chunks = combination(kept, 0.07, 1000)
    np.testing.assert_allclose(factors, whole, rtol=1e-6, atol=1e-9)
    assert of_chunks == pytest.approx(missed, rel=1e-6)


def test_what_was_kept_is_given_back():
    kept = [(each, step) for each in KEPT for step in (500, 1000)]
    factors, miss = combination(kept, 0.10, 1000)
    np.testing.assert_allclose(factors, [0, 0, 0, 1], atol=1e-6)
    assert miss < 1e-6


def test_a_width_far_away_is_missed_and_that_is_said():
    _, miss = combination([(0.05, 1000), (0.10, 1000)], 0.25, 1000)
    assert miss > 0.3


def test_training_in_float64_is_reconstructed_to_a_millionth():
    """A small network that is trained with Adam and a decaying rate, and a snapshot every ten of 2,000 steps."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    inputs = torch.randn(2000, 8, 4, dtype=torch.float64)
    optimizer, steps = torch.optim.Adam(network.parameters()), 2000
    kept = {width: PowerAverage(network.parameters(), width) for width in KEPT}
    wanted = {width: PowerAverage(network.parameters(), width) for width in (0.04, 0.075, 0.12)}
    snapshots, places = [], []
    for step, batch in enumerate(inputs, 1):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / (steps + 1))
        loss = (network(batch) - batch.prod(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for average in (*kept.values(), *wanted.values()):
            average.step(network.parameters(), step)
        if step % 10 == 0:
            for width, average in kept.items():
                snapshots.append(torch.cat([tensor.flatten().clone() for tensor in average.tensors]))
                places.append((width, step))
    for width, average in wanted.items():
        factors, _ = combination(places, width, steps)
        made = torch.from_numpy(factors) @ torch.stack(snapshots)
        expected = torch.cat([tensor.flatten() for tensor in average.tensors])
        assert ((made - expected).norm() / expected.norm()).item() < 1e-6, width
        others = [torch.cat([t.flatten() for t in a.tensors]) for w, a in wanted.items() if w != width]
        assert all((made - other).norm() / expected.norm() > 1e-4 for other in others)
