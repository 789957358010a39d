"""The exact posterior against integrals that can be done another way."""

import numpy as np
import pytest
import torch

from cardiff.analysis.posterior import exact_posterior
from cardiff.analysis.spectra import to_float


def two_points_information(snr):
    """I(x₀; x_t) of x₀ = ±1 with equal odds, by Gauss-Hermite quadrature: ln 2 − E ln(1 + e^(−2·SNR − 2√SNR·z))."""
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    return np.log(2) - weights @ np.logaddexp(0, -2 * snr - 2 * np.sqrt(snr) * z) / np.sqrt(2 * np.pi)


def test_two_points():
    """Copies of an image cannot be told apart, so index and class carry the same information."""
    labels = np.arange(4000) % 2
    images = (255 * labels).astype(np.uint8).reshape(-1, 1, 1, 1)
    levels = np.array([-4.0, -1.0, 0.0, 1.0, 2.0])
    found = exact_posterior(images, labels, levels, queries=4000)
    expected = [two_points_information(snr) for snr in np.exp(levels)]
    np.testing.assert_allclose(found.information, expected, atol=0.02)
    np.testing.assert_allclose(found.class_information, found.information, atol=2e-3)


def small_set(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8), np.arange(count) % 4


def test_every_step_by_hand():
    """One query at a time with plain distances, from the noise that the seed gives."""
    images, labels = small_set()
    level = -2.0
    found = exact_posterior(images, labels, np.array([level]), queries=60, seed=3)
    x = to_float(images).reshape(60, -1)
    rng = np.random.default_rng(3)
    asked = np.sort(rng.permutation(60)[:60])
    noise = rng.standard_normal(x.shape)
    a, sigma = 1 / np.sqrt(1 + np.exp(-level)), 1 / np.sqrt(1 + np.exp(level))
    entropies, class_entropies, hits = [], [], []
    for i, e in zip(asked, noise):
        log_r = -((a * x[i] + sigma * e - a * x) ** 2).sum(1) / (2 * sigma**2)
        r = np.exp(log_r - log_r.max())
        r /= r.sum()
        by_class = np.bincount(labels, r)
        entropies.append(-(r * np.log(np.maximum(r, 1e-300))).sum())
        class_entropies.append(-(by_class * np.log(np.maximum(by_class, 1e-300))).sum())
        hits.append(r.argmax() == i)
    assert found.information[0] == pytest.approx(np.log(60) - np.mean(entropies), abs=1e-4)
    assert found.class_information[0] == pytest.approx(np.log(4) - np.mean(class_entropies), abs=1e-4)
    assert found.recovery[0] == pytest.approx(np.mean(hits))
    assert 0.1 < found.recovery[0] < 0.9  # a level at which something is left to decide


def test_limits_and_monotony():
    images, labels = small_set()
    found = exact_posterior(images, labels, np.arange(-20.0, 12.0, 2.0))
    assert found.information[0] == pytest.approx(0, abs=1e-3) and found.recovery[0] < 0.2
    assert found.information[-1] == pytest.approx(np.log(60), abs=1e-5) and found.recovery[-1] == 1
    assert found.class_information[-1] == pytest.approx(np.log(4), abs=1e-5)
    assert (np.diff(found.information) > -0.02).all()
    assert (found.class_information <= found.information + 1e-3).all()


def test_information_grows_with_half_the_error():
    """dI/dSNR = ½·E‖x₀ − E[x₀|x_t]‖² (Guo, Shamai and Verdú 2005), with the error computed apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 1, 2, 1), dtype=np.uint8)  # two pixels
    snr, step = 1.0, 0.05
    info = exact_posterior(images, None, np.log([snr - step, snr + step]), queries=2000).information
    x = torch.from_numpy(to_float(images).reshape(2000, -1))
    generator = torch.Generator().manual_seed(1)
    errors = []
    for _ in range(5):
        noisy = x + torch.randn(x.shape, generator=generator, dtype=x.dtype) / snr**0.5  # x_t/a
        r = torch.softmax(-(torch.cdist(noisy, x) ** 2) * snr / 2, dim=1)
        errors.append(((x - r @ x) ** 2).sum(1).mean().item())
    assert (info[1] - info[0]) / (2 * step) == pytest.approx(np.mean(errors) / 2, rel=0.05)


def test_without_labels_and_with_progress():
    seen = []
    found = exact_posterior(small_set()[0], None, np.array([0.0, 1.0]), progress=seen.append)
    assert found.class_information is None and seen == [1, 1]


def test_some_images_are_noised_and_all_are_possible():
    """Ten queries among sixty images: what is known at last is which of the sixty."""
    images, labels = small_set()
    found = exact_posterior(images, labels, np.array([-30.0, 12.0]), queries=10)
    np.testing.assert_allclose(found.information, [0, np.log(60)], atol=1e-3)
    assert found.recovery[1] == 1
