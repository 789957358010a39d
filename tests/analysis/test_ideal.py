"""The ideal networks against torch's own densities: what they predict is a score, a posterior mean and a posterior."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from cardiff.analysis.ideal import IdealClassifier, IdealUNet, class_priors
from cardiff.schedulers import LinearScheduler

COMPONENTS = [0, 1, 1, 2]
WEIGHTS = [0.4, 0.1, 0.2, 0.3]
PRIORS = class_priors(COMPONENTS, WEIGHTS)
TIMES = [0, 50, 400, 999]


def setting(prediction_type="epsilon", variances=(0.01, 0.2, 0.05, 0.5), priors=PRIORS):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 2, 1, 3))
    scheduler = LinearScheduler(prediction_type=prediction_type).to_stock()
    return means, IdealUNet(means, variances, scheduler, priors), rng


def log_density(x, means, unet, t, weights):
    """log p_t of vectors (B, 6), from the definition of the noised components."""
    signal = float(unet.alphas_cumprod[t])
    spread = (signal * unet.variances + 1 - signal).sqrt()
    parts = Normal(math.sqrt(signal) * torch.from_numpy(means).flatten(1), spread[:, None].expand(-1, 6))
    # torch's own MixtureSameFamily takes probabilities of 0 for 2e-16.
    return torch.logsumexp(Independent(parts, 1).log_prob(x[:, None]) + torch.from_numpy(weights).log(), dim=1)


def test_priors():
    np.testing.assert_allclose(PRIORS, [[1, 0, 0, 0], [0, 1 / 3, 2 / 3, 0], [0, 0, 0, 1], WEIGHTS])
    np.testing.assert_allclose(class_priors([0, 1, 1])[-1], [1 / 3] * 3)


@pytest.mark.parametrize("t", TIMES)
def test_predictions_are_the_score_and_the_posterior_mean(t):
    """ε* = −σ·∇log p_t, and by Tweedie E[x₀|x_t] = (x_t + σ²·∇log p_t)/a; v from both."""
    means, unet, rng = setting()
    labels = torch.tensor([0, 1, 2, 3, 1])
    x = torch.from_numpy(rng.normal(size=(5, 2, 1, 3)))
    found = {kind: setting(kind)[1](x, t, labels).sample for kind in ("epsilon", "sample", "v_prediction")}
    for i, label in enumerate(labels):
        signal = float(unet.alphas_cumprod[t])
        flat = x[i : i + 1].flatten(1).requires_grad_()
        (score,) = torch.autograd.grad(log_density(flat, means, unet, t, PRIORS[label]).sum(), flat)
        a, sigma = math.sqrt(signal), math.sqrt(1 - signal)
        noise, clean = -sigma * score[0], (flat.detach() + sigma**2 * score)[0] / a
        for kind, expected in {"epsilon": noise, "sample": clean, "v_prediction": a * noise - sigma * clean}.items():
            torch.testing.assert_close(found[kind][i].flatten(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", TIMES)
def test_the_classifier_is_bayes_rule(t):
    means, unet, rng = setting()
    x = torch.from_numpy(rng.normal(size=(5, 2, 1, 3)))
    flat = x.flatten(1)
    shares = [0.4, 0.3, 0.3]
    joint = [log_density(flat, means, unet, t, row) + math.log(p) for row, p in zip(PRIORS, shares)]
    expected = torch.stack(joint, 1).log_softmax(1)
    torch.testing.assert_close(IdealClassifier(unet)(x, t), expected, rtol=1e-10, atol=1e-10)


def test_a_finite_set_has_no_spread():
    """Variance 0: the posterior mean is a softmax over the images."""
    means, unet, rng = setting("sample", variances=[0.0] * 4)
    x, t = torch.from_numpy(rng.normal(size=(3, 2, 1, 3))), 500
    signal = float(unet.alphas_cumprod[t])
    data = torch.from_numpy(means).flatten(1)
    distances = torch.cdist(x.flatten(1), math.sqrt(signal) * data) ** 2
    r = torch.softmax(-distances / (2 * (1 - signal)) + torch.tensor(WEIGHTS, dtype=torch.float64).log(), 1)
    torch.testing.assert_close(unet(x, t, torch.full((3,), 3)).sample.flatten(1), r @ data, rtol=1e-9, atol=1e-9)


def test_without_classes():
    means, unet, rng = setting(priors=PRIORS[-1:])
    assert unet.config.num_class_embeds is None and unet.config.sample_size == (1, 3)
    x = torch.from_numpy(rng.normal(size=(2, 2, 1, 3)))
    with_null = setting()[1](x, 300, torch.tensor([3, 3])).sample
    torch.testing.assert_close(unet(x, 300).sample, with_null, rtol=0, atol=0)
    assert unet(x.float(), 300).sample.dtype == torch.float32
