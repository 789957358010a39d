"""The real schedulers sample what theory says, with ideal denoisers of data whose distribution is known, in float64.

For Gaussian data a step is affine in x_t and its noise. So its slope, offset and noise are read off one call, and the
mean and variance that n steps end with follow without any random number.
"""

import math

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from cardiff.schedulers import SCHEDULES
from tests.support.example_schedules import example

SAMPLERS = ["small", "large", "ddim"]
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)


def real_scheduler(name, kind, **options):
    """diffusers' own DDPM or DDIM scheduler with the noise levels of a schedule, unclipped, in float64."""
    variance_type = "fixed_large" if kind == "large" else "fixed_small"
    scheduler = example(name, clip_sample=False, variance_type=variance_type, **options).to_stock()
    scheduler = DDIMScheduler.from_config(scheduler.config) if kind == "ddim" else scheduler
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def output_of(scheduler, t, x, denoise):
    """What the ideal network predicts, from x̂₀ = denoise(x, a, σ)."""
    signal = scheduler.alphas_cumprod[t]
    a, sigma = signal.sqrt(), (1 - signal).sqrt()
    clean = denoise(x, a, sigma)
    if scheduler.config.prediction_type == "sample":
        return clean
    epsilon = (x - a * clean) / sigma
    return epsilon if scheduler.config.prediction_type == "epsilon" else a * epsilon - sigma * clean


def step(scheduler, t, x, denoise, last, **arguments):
    """One step as our pipeline takes it: DDPM's last is its x̂₀, since diffusers would add noise whenever t > 0."""
    result = scheduler.step(output_of(scheduler, t, x, denoise), t, x, **arguments)
    return result.pred_original_sample if last and isinstance(scheduler, DDPMScheduler) else result.prev_sample


# Gaussian data


def gaussian(mean, variance):
    def denoise(x, a, sigma):
        return mean + a * variance / (a**2 * variance + sigma**2) * (x - a * mean)

    return denoise


def sampled_moments(scheduler, count, mean, variance, monkeypatch):
    """Mean and variance after `count` steps of the scheduler, read off its steps."""
    basis = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    only_last = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda *_, **__: only_last)
    scheduler.set_timesteps(count)
    assert len(scheduler.timesteps) == count
    m, v = 0.0, 1.0
    for i, t in enumerate(scheduler.timesteps.tolist()):
        offset, moved, noisy = step(scheduler, t, basis, gaussian(mean, variance), i + 1 == count).flatten().tolist()
        m, v = offset + (moved - offset) * m, (moved - offset) ** 2 * v + (noisy - offset) ** 2
    return m, v


def true_moments(levels, mean, variance, kind):
    """The closed form: each step's gain, written with V = ᾱs² + σ²."""
    m, v = 0.0, 1.0
    for signal, signal_p in zip(levels, [*levels[1:], 1.0]):
        a, a_p, sigma, sigma_p = (math.sqrt(s) for s in (signal, signal_p, 1 - signal, 1 - signal_p))
        total = signal * variance + sigma**2
        if kind == "ddim":
            gain, noise = (a_p * a * variance + sigma_p * sigma) / total, 0.0
        else:
            alpha = signal / signal_p
            gain = a_p * (1 - alpha) / sigma**2 * a * variance / total + math.sqrt(alpha) * sigma_p**2 / sigma**2
            noise = (1 - alpha) * (sigma_p**2 / sigma**2 if kind == "small" else sigma_p > 0)
        m, v = a_p * mean + gain * (m - a * mean), gain**2 * v + noise
    return m, v


@pytest.mark.parametrize("count", [10, 50, 250, 1000])
@every_sampler
@pytest.mark.parametrize("name", SCHEDULES)
def test_gaussian_mean_and_variance(name, kind, count, monkeypatch):
    scheduler = real_scheduler(name, kind)
    moments = sampled_moments(scheduler, count, 0.5, 0.25, monkeypatch)
    levels = scheduler.alphas_cumprod[scheduler.timesteps].tolist()
    assert moments == pytest.approx(true_moments(levels, 0.5, 0.25, kind), rel=1e-7)


@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@every_sampler
@pytest.mark.parametrize("name", ["linear", "cosine", "laplace"])
def test_gaussian_mean_and_variance_from_pure_noise(name, kind, prediction_type, count, monkeypatch):
    """Zero terminal SNR, where the first step forgets x_T but for its noise."""
    scheduler = real_scheduler(name, kind, prediction_type=prediction_type, rescale_betas_zero_snr=True)
    moments = sampled_moments(scheduler, count, 0.5, 0.25, monkeypatch)
    levels = scheduler.alphas_cumprod[scheduler.timesteps].tolist()
    assert levels[0] == 0
    assert moments == pytest.approx(true_moments(levels, 0.5, 0.25, kind), rel=1e-7)


@pytest.mark.parametrize(
    ("kind", "spacing", "expected"), [("ddim", "trailing", 0.2222), ("small", "trailing", 0.1972)]
)
def test_the_closed_form_itself(kind, spacing, expected):
    """True variance .25, the linear schedule, 50 steps: values computed elsewhere."""
    scheduler = real_scheduler("linear", kind, timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    levels = scheduler.alphas_cumprod[scheduler.timesteps].tolist()
    assert true_moments(levels, 0.0, 0.25, kind)[1] == pytest.approx(expected, abs=1e-4)


def draw(scheduler, count, shape, denoise, seed=0):
    """Samples, with real noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = {} if isinstance(scheduler, DDIMScheduler) else {"generator": generator}
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    scheduler.set_timesteps(count)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        x = step(scheduler, t, x, denoise, i + 1 == count, **noise)
    return x


@every_sampler
@pytest.mark.parametrize("name", ["linear", "cosine", "edm_lognormal"])
def test_gaussian_samples(name, kind):
    """By Monte Carlo, to five standard errors."""
    scheduler, size = real_scheduler(name, kind), 100_000
    x = draw(scheduler, 50, (size, 1), gaussian(0.5, 0.25))
    levels = scheduler.alphas_cumprod[scheduler.timesteps].tolist()
    mean, variance = true_moments(levels, 0.5, 0.25, kind)
    assert x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / size))
    assert x.var().item() == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / size))


# Mixtures and finite sets

SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-0.8, 0.5], [0.6, -0.2]], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.01], dtype=torch.float64)


def mixture(x, a, sigma):
    """E[x₀|x_t] of two isotropic normals: each one's, weighted by its posterior probability."""
    total = a**2 * VARIANCES + sigma**2  # (K,)
    gap = x[:, None] - a * MEANS  # (B, K, D)
    log_weight = SHARES.log() - total.log() * x.shape[1] / 2 - gap.square().sum(-1) / (2 * total)
    clean = MEANS + (a * VARIANCES / total)[:, None] * gap
    return (log_weight.softmax(-1)[..., None] * clean).sum(1)


@every_sampler
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_mixture_of_gaussians(name, kind):
    """Shares, places and spreads to five standard errors; 250 steps shrink each part as they shrink a lone normal."""
    scheduler, size = real_scheduler(name, kind), 20_000
    x = draw(scheduler, 250, (size, 2), mixture)
    levels = scheduler.alphas_cumprod[scheduler.timesteps].tolist()
    component = (x[:, None] - MEANS).square().sum(-1).argmin(1)
    for k in range(2):
        mine, share = x[component == k], SHARES[k].item()
        deviation = math.sqrt(true_moments(levels, 0.0, VARIANCES[k].item(), kind)[1])
        assert deviation == pytest.approx(VARIANCES[k].sqrt().item(), rel=0.15)
        assert len(mine) / size == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / size))
        torch.testing.assert_close(mine.mean(0), MEANS[k], rtol=0, atol=5 * deviation / len(mine) ** 0.5)
        assert mine.std(0).tolist() == pytest.approx([deviation] * 2, rel=5 / (2 * len(mine)) ** 0.5)


POINTS = torch.tensor([[-0.9, -0.9], [-0.7, 0.8], [0.0, 0.0], [0.9, 0.4], [0.8, -0.8]], dtype=torch.float64)


def finite_set(x, a, sigma):
    """E[x₀|x_t] of five points, alike in probability."""
    return (-(x[:, None] - a * POINTS).square().sum(-1) / (2 * sigma**2)).softmax(-1) @ POINTS


@every_sampler
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_finite_set(name, kind):
    """Every sample is one of the points, each in its share."""
    size = 20_000
    x = draw(real_scheduler(name, kind), 250, (size, 2), finite_set)
    distance, nearest = (x[:, None] - POINTS).norm(dim=-1).min(1)
    assert distance.max() < 0.02
    shares = nearest.bincount(minlength=5) / size
    torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=5 * math.sqrt(0.16 / size))
