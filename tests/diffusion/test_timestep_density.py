"""The density of timesteps: what it follows, that its objective is the same, and that no split changes a bit."""

import json

import numpy as np
import pytest
import torch

from cardiff.diffusion.loss import loss_weights
from cardiff.diffusion.timestep_density import BINS, DECAY, EVEN, GATE, TimestepDensity
from cardiff.schedulers import SCHEDULES

T = 1000


def summed(sums: torch.Tensor) -> torch.Tensor:
    """Of one process."""
    return sums.clone()


def density(kind="loss", prediction_type="v_prediction", weighting="uniform", schedule="cosine") -> TimestepDensity:
    scheduler = SCHEDULES[schedule](prediction_type=prediction_type).to_stock()
    return TimestepDensity(kind, scheduler, loss_weights(scheduler, weighting))


def error(t: torch.Tensor) -> torch.Tensor:
    """A loss that is the same for all images of a bin."""
    return 0.1 + (t * BINS // T).float() ** 2 / 500


def fed(made: TimestepDensity, rounds: int = 1) -> TimestepDensity:
    for _ in range(rounds):
        t = torch.arange(T)
        made.add(made.loss_weights * error(t), t)
        made.update(summed)
    return made


def test_it_is_even_until_every_bin_has_been_seen():
    made = density()
    t = torch.arange(T - T // BINS)  # all but the last bin
    made.add(error(t), t)
    made.update(summed)
    np.testing.assert_array_equal(made.probabilities, 1 / T)
    assert (made.importance == 1).all()
    t = torch.tensor([T - 1])
    made.add(error(t), t)
    made.update(summed)
    assert made.probabilities[-1] > 5 * made.probabilities[0]


def test_importance_sampling_follows_the_root_of_the_second_moment():
    made = fed(density(), rounds=3)
    wanted = error(torch.arange(T)).double().numpy()
    np.testing.assert_allclose(made.probabilities, 0.9 * wanted / wanted.sum() + 0.1 / T, rtol=1e-5)
    assert EVEN == 0.1


def test_importance_sampling_leaves_the_objective_and_lowers_its_variance():
    """The mean over drawn timesteps of what training sees is the even mean, for any losses."""
    made = fed(density(weighting="min_snr"))
    t = torch.arange(T)
    seen, even = made.loss_weights * error(t), made.base_weights * error(t)
    probabilities = torch.from_numpy(made.probabilities)
    assert float(probabilities @ seen.double()) == pytest.approx(float(even.mean()), rel=1e-6)
    variance = float(probabilities @ seen.double().square()) - float(even.mean()) ** 2
    assert variance < 0.2 * float(even.var())


@pytest.mark.parametrize("kind", ["loss", "information"])
def test_timesteps_are_drawn_with_these_probabilities(kind):
    made = fed(density(kind, schedule="sigmoid"))
    count = 400_000
    drawn = made.timesteps((np.arange(count) + 0.5) / count)
    found = np.bincount(drawn, minlength=T) / count
    np.testing.assert_allclose(found, made.probabilities, atol=1.01 / count)
    assert made.timesteps(np.array([0.0, 1 - 2**-53])).tolist() == [0, T - 1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_information_is_that_of_gaussian_data(prediction_type, weighting):
    """For data of variance ℓ it is ½·SNR·ℓ/(1 + SNR·ℓ) per λ, whatever is predicted and however that is weighed."""
    variance = 0.3
    made = density("information", prediction_type, weighting)
    scheduler = SCHEDULES["cosine"]().to_stock()
    alpha_bar = scheduler.alphas_cumprod.double().numpy()
    snr = alpha_bar / (1 - alpha_bar)
    mmse = variance / (1 + snr * variance)
    per_type = {"epsilon": snr * mmse, "v_prediction": (1 + snr) * mmse, "sample": mmse}[prediction_type]
    t = torch.arange(T)
    made.add(made.base_weights * torch.from_numpy(per_type).float(), t)
    made.update(summed)
    gate = 1 / (1 + (GATE * np.sqrt(snr)) ** 3)
    rate = snr * mmse * gate * -np.gradient(np.log(snr))
    of_bins = rate.reshape(BINS, -1).mean(1).repeat(T // BINS)  # a bin is drawn from evenly
    np.testing.assert_allclose(made.probabilities, 0.9 * of_bins / of_bins.sum() + 0.1 / T, rtol=1e-4)
    assert (made.importance == 1).all() and torch.equal(made.loss_weights, made.base_weights)


def test_averages_forget():
    made = density()
    t = torch.arange(T)
    for scale in (1.0, 3.0):
        made.add(torch.full((T,), scale), t)
        made.update(summed)
    np.testing.assert_allclose(made.means, DECAY * 1 + (1 - DECAY) * 9)


def test_neither_order_nor_processes_change_a_bit():
    t = torch.from_numpy(np.random.default_rng(0).integers(0, T, 4096))
    loss = torch.rand(4096, generator=torch.Generator().manual_seed(0)) * error(t)
    one, other = density(), density()
    one.add(loss, t)
    one.update(summed)
    parts = [density() for _ in range(3)]
    for part, place in zip(parts, np.array_split(np.random.default_rng(1).permutation(4096), 3)):
        part.add(loss[place], t[place])
    other.update(lambda sums: sum(part.sums for part in parts))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_a_checkpoint_in_the_middle_changes_nothing():
    t = torch.arange(T)
    whole = fed(density())
    whole.add(whole.loss_weights * error(t), t)
    state = json.loads(json.dumps(whole.state(summed)))
    again, second = density(), density()
    again.load(state, main=True)
    second.load(state, main=False)  # another process: the same density, none of the sums
    np.testing.assert_array_equal(again.probabilities, second.probabilities)
    assert torch.equal(again.importance, whole.importance) and not second.sums.any()
    for made in (whole, again):
        made.update(lambda sums: sums + second.sums)
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)


def test_few_timesteps_have_a_bin_each():
    scheduler = SCHEDULES["cosine"](num_train_timesteps=10, prediction_type="v_prediction").to_stock()
    made, t = TimestepDensity("loss", scheduler, torch.ones(10)), torch.arange(10)
    made.add(1.0 + t, t)
    made.update(summed)
    np.testing.assert_allclose(made.probabilities, 0.9 * np.arange(1, 11) / 55 + 0.01, rtol=1e-5)


@pytest.mark.parametrize("spoiled", [{"means": [1.0]}, {"sums": [[1], [2]]}, {"means": "many"}])
def test_another_state_is_refused(spoiled):
    made = density()
    with pytest.raises(ValueError, match="bins|could not convert"):
        made.load({**made.state(summed), **spoiled}, main=True)


def test_losses_that_are_not_finite_leave_it_as_it_is():
    made = fed(density())
    before = made.probabilities.copy()
    made.means[:] = np.inf
    made._follow()
    np.testing.assert_array_equal(made.probabilities, before)
