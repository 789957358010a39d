"""Targets and weights by the identities that tie the errors of ε̂, v̂ and x̂₀ together."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from cardiff.diffusion.draws import Draws
from cardiff.diffusion.loss import (
    ClassificationLoss,
    DenoisingLoss,
    loss_weights,
    model_range,
    prediction_target,
    squared_error,
)
from cardiff.schedulers import SCHEDULES, CosineScheduler, LinearScheduler
from tests.support.example_schedules import example

TYPES = ["epsilon", "v_prediction", "sample"]


def snr_of(scheduler):
    return scheduler.alphas_cumprod.double() / (1 - scheduler.alphas_cumprod.double())


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_targets_by_hand(prediction_type):
    scheduler = LinearScheduler(prediction_type=prediction_type)
    images, noise, timesteps = normal(3, 2, 4, 4, seed=0), normal(3, 2, 4, 4, seed=1), torch.tensor([0, 400, 999])
    target = prediction_target(scheduler, images, noise, timesteps)
    for k, t in enumerate(timesteps):
        signal = scheduler.alphas_cumprod[t].item()
        expected = {
            "epsilon": noise[k],
            "v_prediction": math.sqrt(signal) * noise[k] - math.sqrt(1 - signal) * images[k],
            "sample": images[k],
        }[prediction_type]
        torch.testing.assert_close(target[k], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("t", [5, 400, 990])
def test_the_target_leads_back_to_the_image(prediction_type, t):
    """A scheduler's step that is given the target as the prediction finds x₀: target and sampler agree."""
    scheduler = LinearScheduler(prediction_type=prediction_type, clip_sample=False)
    images, noise, timesteps = normal(2, 1, 4, 4, seed=0), normal(2, 1, 4, 4, seed=1), torch.tensor([t, t])
    noisy = scheduler.add_noise(images, noise, timesteps)
    target = prediction_target(scheduler, images, noise, timesteps)
    clean = scheduler.step(target, t, noisy).pred_original_sample
    torch.testing.assert_close(clean, images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [5, 250, 500, 990])
def test_errors_of_the_three_predictions(t):
    """‖δv‖² = (1 + SNR)·‖δx₀‖² = (1 + 1/SNR)·‖δε‖² for one and the same error of the clean image, at fixed x_t."""
    errors = {}
    images, wrong, noise = (normal(2, 1, 4, 4, seed=seed) for seed in range(3))
    for prediction_type in TYPES:
        scheduler = LinearScheduler(prediction_type=prediction_type)
        signal = scheduler.alphas_cumprod[t].double()
        noisy = signal.sqrt() * images + (1 - signal).sqrt() * noise
        wrong_noise = (noisy - signal.sqrt() * wrong) / (1 - signal).sqrt()
        timesteps = torch.tensor([t, t])
        target = prediction_target(scheduler, images, noise, timesteps)
        output = prediction_target(scheduler, wrong, wrong_noise, timesteps)
        errors[prediction_type] = squared_error(output, target)
    snr = snr_of(scheduler)[t].float()
    torch.testing.assert_close(errors["v_prediction"], (1 + snr) * errors["sample"], rtol=1e-4, atol=0)
    torch.testing.assert_close(errors["v_prediction"], (1 + 1 / snr) * errors["epsilon"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_min_snr_is_one_weight_on_the_clean_image(name, gamma):
    """min(SNR, γ) on the error of x̂₀, whatever is predicted."""
    snr = snr_of(example(name))
    per_clean_error = {"epsilon": snr, "v_prediction": 1 + snr, "sample": torch.ones_like(snr)}
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    for prediction_type, factor in per_clean_error.items():
        weights = loss_weights(example(name, prediction_type=prediction_type), "min_snr", gamma)
        assert weights.dtype == torch.float32 and weights.shape == (1000,)
        torch.testing.assert_close(weights.double() * factor, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_uniform_weights_are_one(prediction_type):
    weights = loss_weights(CosineScheduler(prediction_type=prediction_type), "uniform")
    torch.testing.assert_close(weights, torch.ones(1000), rtol=0, atol=0)


@pytest.mark.parametrize(("prediction_type", "limit"), [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)])
def test_min_snr_at_no_signal_at_all(prediction_type, limit):
    """Zero terminal SNR, where the quotients are 0/0."""
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, prediction_type=prediction_type)
    scheduler.alphas_cumprod[-1] = 0.0
    weights = loss_weights(scheduler, "min_snr")
    assert weights.isfinite().all() and weights[-1] == limit


def test_squared_error_is_per_image_in_float32():
    output, target = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), torch.ones(2, 3, 4, 4) * 0.1
    target[1] = 2.0
    errors = squared_error(output, target)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, torch.tensor([0.01, 4.0]))


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("name", ["linear", "sigmoid", "linear_log_snr", "cosine"])
def test_schedule_invariant_weights_divide_the_schedule_out(name, prediction_type):
    """The expected loss of an error that is a function of log-SNR is one integral, whatever the schedule."""
    scheduler = SCHEDULES[name](prediction_type=prediction_type)
    alphas_cumprod = scheduler.alphas_cumprod.double()
    log_snr = torch.logit(alphas_cumprod)
    v_error = torch.exp(-((log_snr - 1) ** 2) / 8)  # of the velocity, in the range that every schedule covers
    snr = torch.exp(log_snr)
    own_error = {"v_prediction": v_error, "epsilon": v_error * snr / (1 + snr), "sample": v_error / (1 + snr)}
    loss = (loss_weights(scheduler, "schedule_invariant").double() * own_error[prediction_type]).mean().item()
    levels = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
    density = 1 / (2 * math.pi * torch.cosh(levels / 2))
    expected = torch.trapezoid(density * torch.exp(-((levels - 1) ** 2) / 8), levels).item()
    assert loss == pytest.approx(expected, rel=0.01)


def test_schedule_invariant_is_the_plain_v_loss_of_the_cosine_schedule():
    weights = loss_weights(SCHEDULES["cosine"](prediction_type="v_prediction", s=1e-5), "schedule_invariant")
    torch.testing.assert_close(weights[20:-20], torch.ones(960), rtol=0.01, atol=0)


def test_min_snr_is_five_unless_asked():
    """The paper's γ, section 3.4."""
    scheduler = LinearScheduler(prediction_type="sample")
    torch.testing.assert_close(loss_weights(scheduler, "min_snr"), loss_weights(scheduler, "min_snr", 5.0))
    assert loss_weights(scheduler, "min_snr").max() == 5


# The loss of a batch


def draws_of(count: int, **given) -> Draws:
    """Draws for `count` grey images of 4 × 4 pixels, of which some are given."""
    drawn = {
        "timesteps": torch.arange(count) * 300,
        "noise": normal(count, 1, 4, 4, seed=7).float(),
        "drop": torch.zeros(count, dtype=torch.bool),
        "flip": torch.zeros(count, dtype=torch.bool),
    }
    return Draws(**{**drawn, **given})


def bytes_of(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


class Network(torch.nn.Module):
    """Remembers what it is given and predicts a multiple of x_t."""

    def forward(self, noisy, timesteps, class_labels=None):
        self.given = (noisy, timesteps, class_labels)
        return SimpleNamespace(sample=0.5 * noisy)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_denoising_loss_is_algorithm_1(prediction_type):
    """Written anew in float64: noised by eq. 4, compared with ε, v or x₀, weighed by timestep."""
    scheduler, network = CosineScheduler(prediction_type=prediction_type), Network()
    images, draws, weights = bytes_of(3), draws_of(3), torch.linspace(1, 2, 1000)
    loss = DenoisingLoss(scheduler.to_stock(), weights)(network, images, None, draws)
    signal = scheduler.alphas_cumprod.double()[draws.timesteps][:, None, None, None]
    a, sigma = signal.sqrt(), (1 - signal).sqrt()
    clean, noise = images.double() / 127.5 - 1, draws.noise.double()
    noisy = a * clean + sigma * noise
    target = {"epsilon": noise, "v_prediction": a * noise - sigma * clean, "sample": clean}[prediction_type]
    expected = weights[draws.timesteps] * ((0.5 * noisy - target) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-4, atol=1e-5)
    given, timesteps, labels = network.given
    torch.testing.assert_close(given.double(), noisy, rtol=0, atol=1e-5)
    assert timesteps is draws.timesteps and labels is None


def test_a_dropped_label_becomes_the_null_class():
    network, draws = Network(), draws_of(3, drop=torch.tensor([False, True, False]))
    loss = DenoisingLoss(CosineScheduler().to_stock(), torch.ones(1000), null_class=10)
    loss(network, bytes_of(3), torch.tensor([4, 5, 6]), draws)
    assert network.given[2].tolist() == [4, 10, 6]


def test_the_classification_loss_is_of_noised_images():
    scheduler, seen = CosineScheduler().to_stock(), []

    def classifier(noisy, timesteps):
        seen.append(noisy)
        return noisy.flatten(1)[:, :5]

    images, labels, draws = bytes_of(3), torch.tensor([0, 4, 2]), draws_of(3)
    loss = ClassificationLoss(scheduler)(classifier, images, labels, draws)
    noisy = scheduler.add_noise(model_range(images), draws.noise, draws.timesteps)
    torch.testing.assert_close(seen[0], noisy, rtol=0, atol=0)
    expected = -torch.log_softmax(noisy.flatten(1)[:, :5], dim=1)[range(3), labels]
    torch.testing.assert_close(loss, expected)


def test_a_mirrored_image_is_mirrored_left_to_right():
    """Where `flip` says so and nowhere else."""
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    clean = model_range(images, torch.tensor([True, False]))
    expected = images.double() / 127.5 - 1
    expected[0] = expected[0, :, :, [3, 2, 1, 0]]  # (C, H, W), whose last axis runs from left to right
    torch.testing.assert_close(clean.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model_range(images)[1], clean[1], rtol=0, atol=0)
    assert model_range(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).flatten().tolist() == [-1.0, 1.0]
