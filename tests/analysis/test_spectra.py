"""The measured spectrum against images whose spectrum is known, and the Gaussian formulas against torch's."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from cardiff.analysis.spectra import fit_gaussian, octave_arguments, to_float
from cardiff.schedulers.spectrum import Spectrum, frequencies, octave_of, spectrum_from_octaves


def known_images(count=3000, size=16, seed=0):
    """Grey Gaussian images of spectrum 0.02/f, uint8, and that spectrum."""
    rng = np.random.default_rng(seed)
    variances = 0.02 / np.maximum(frequencies(size), 0.5)
    noise = np.fft.fft2(rng.standard_normal((count, size, size)), norm="ortho")
    x = np.fft.ifft2(noise * np.sqrt(variances), norm="ortho").real + 0.2
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)[:, None], variances


def test_known_spectrum_is_found():
    images, variances = known_images()
    model = fit_gaussian(images, batch_size=700)
    np.testing.assert_allclose(model.spectrum.variances.reshape(16, 16), variances, rtol=0.15)
    octaves = octave_of(frequencies(16))
    for k in range(octaves.max() + 1):  # averaged over modes the statistical error is small
        found = model.spectrum.variances.reshape(16, 16)[octaves == k]
        np.testing.assert_allclose(found.sum(), variances[octaves == k].sum(), rtol=0.08 if k == 0 else 0.03)
    np.testing.assert_allclose(model.mean, 0.2, atol=0.02)


def test_colours_are_turned_to_their_components():
    """Three channels that are multiples of one grey image have one component with all the variance."""
    grey, variances = known_images()
    x = to_float(grey[:, 0])[:, None] * np.array([1.0, 0.5, -0.5])[:, None, None]
    images = np.rint((x + 1) * 127.5).astype(np.uint8)
    spectrum = fit_gaussian(images).spectrum
    by_component = spectrum.variances.reshape(3, -1).sum(1)
    np.testing.assert_allclose(by_component[-1], 1.5 * variances.sum(), rtol=0.05)
    assert by_component[:2].sum() < 1e-3 * by_component[-1]  # what rounding to 8 bits adds


def test_variance_and_mean_are_kept():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    spectrum = fit_gaussian(images, batch_size=7).spectrum
    np.testing.assert_allclose(spectrum.total_variance, to_float(images).var(0, ddof=1).sum(), rtol=1e-12)
    np.testing.assert_allclose(spectrum.mean_powers.sum(), (to_float(images).mean(0) ** 2).sum(), rtol=1e-12)
    for weights in (spectrum.pixel_weights, spectrum.octave_weights, spectrum.mode_weights):
        assert weights.sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("images", [np.zeros((1, 1, 8, 8), np.uint8), np.full((9, 3, 8, 8), 7, np.uint8)])
def test_nothing_to_measure(images):
    with pytest.raises(ValueError, match="from 2 or more images, but the data set has 1|are identical"):
        fit_gaussian(images)


def test_power_within_an_octave_has_the_slope_to_the_next():
    """Beyond the centre of the last octave that to the one before; a straight line of log power over log radius."""
    powers = [1.0, 0.9, 0.5, 0.2, 0.001]
    spectrum = spectrum_from_octaves([[power] for power in powers], 16)
    radius = frequencies(16).ravel()
    octaves = octave_of(radius)
    centre = [np.log(radius[octaves == k]).mean() for k in range(5)[1:]]
    last = (np.log(powers[4]) - np.log(powers[3])) / (centre[3] - centre[2])
    outer = (octaves == 4) & (np.round(radius) > np.exp(centre[3]))
    rings = np.unique(np.round(radius[outer]))
    ring_radius = [radius[outer & (np.round(radius) == ring)].mean() for ring in rings]
    found = np.log(spectrum.variances[spectrum.octaves == 4][-len(rings) :])
    assert len(rings) > 1 and found[0] > found[-1]
    np.testing.assert_allclose(np.diff(found) / np.diff(np.log(ring_radius)), last, rtol=1e-9)


def test_wiener_estimate_is_the_posterior_mean():
    """Of one pixel-independent normal: μ + aℓ/(a²ℓ + σ²)·(x_t − aμ)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4000, 1, 8, 8), dtype=np.uint8)
    model = fit_gaussian(images)
    noisy, level = rng.standard_normal((5, 1, 8, 8)), 0.7
    a2 = 1 / (1 + np.exp(-level))
    variance = ((np.arange(256) / 127.5 - 1) ** 2).mean()  # of uniform bytes, whose mean is 0
    expected = np.sqrt(a2) * variance / (a2 * variance + 1 - a2) * noisy
    np.testing.assert_allclose(model.wiener_estimate(noisy, level), expected, atol=0.06)
    clean = to_float(images[:3])
    np.testing.assert_allclose(model.wiener_estimate(clean, 40.0), clean, atol=1e-8)


def test_octaves_keep_their_power():
    images, _ = known_images()
    model = fit_gaussian(images)
    arguments = octave_arguments(model)
    smooth = spectrum_from_octaves(**arguments)
    assert smooth.counts.sum() == 256 and arguments["resolution"] == 16
    for k, (power,) in enumerate(arguments["octave_powers"]):
        inside = smooth.octaves == k
        mean = smooth.counts[inside] @ smooth.variances[inside] / smooth.counts[inside].sum()
        assert mean == pytest.approx(power, rel=1e-12)
    level = np.linspace(-6, 8, 15)
    np.testing.assert_allclose(smooth.structure(level), model.spectrum.structure(level), atol=0.01)
    assert smooth.counts @ smooth.mean_powers == pytest.approx((model.mean**2).sum(), rel=1e-3)


def test_default_spectrum_is_one_over_f_squared():
    spectrum = spectrum_from_octaves(None, 32)
    assert spectrum.total_variance == pytest.approx(0.25 * 32**2, rel=1e-12)
    first, fifth = (spectrum.variances[spectrum.octaves == k] for k in (2, 5))
    assert np.log2(first.mean() / fifth.mean()) / 2 == pytest.approx(3, abs=0.25)  # three octaves apart, f² each


@pytest.mark.parametrize(
    ("powers", "sentence"),
    [
        ([[1.0]] * 4, "has 4 rows, but an image of 16 pixels has 5 octaves"),
        ([[1.0]] * 4 + [[0.0]], "above 0"),
        ([[1.0]] * 4 + [[float("nan")]], "finite"),
    ],
)
def test_refused_powers(powers, sentence):
    with pytest.raises(ValueError, match=sentence):
        spectrum_from_octaves(powers, 16)


def bands(**values):
    given = {"variances": [3.0, 0.5, 0.01], "counts": [1, 8, 30], "octaves": [0, 1, 2], "mean_powers": [2.0, 0.1, 0]}
    return Spectrum(*(np.asarray(a) for a in (given | values).values()))


def test_leak_is_the_divergence_of_the_two_normals():
    spectrum, level = bands(), -3.0
    alpha_bar = torch.sigmoid(torch.tensor(level, dtype=torch.float64))
    expected = 0.0
    for variance, count, _, power in zip(spectrum.variances, spectrum.counts, spectrum.octaves, spectrum.mean_powers):
        data = Normal((alpha_bar * power).sqrt(), (alpha_bar * variance + 1 - alpha_bar).sqrt())
        expected += count * kl_divergence(data, Normal(torch.zeros_like(alpha_bar), 1.0)).item()
    assert spectrum.leak(level) == pytest.approx(expected, rel=1e-12)
    assert spectrum.leak(spectrum.log_snr_of_leak(1e-3)) == pytest.approx(1e-3, rel=1e-9)
    assert bands(mean_powers=[0, 0, 0]).log_snr_of_leak(1e-3) > spectrum.log_snr_of_leak(1e-3)


def test_gain_and_structure():
    spectrum = bands()
    np.testing.assert_allclose(np.diag(spectrum.gain(-np.log(spectrum.variances))), 0.5, rtol=1e-12)
    np.testing.assert_allclose(spectrum.gain(np.array([1.3])), [
        [np.exp(1.3) * v / (1 + np.exp(1.3) * v) for v in spectrum.variances]
    ], rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(spectrum.structure(np.array([1.3])), spectrum.gain(np.array([1.3])).mean(1))


def test_a_leak_that_cannot_be_met():
    with pytest.raises(ValueError, match="max_leak=1e-40"):
        bands().log_snr_of_leak(1e-40)


def test_pixels_are_those_of_training():
    """0 is −1 and 255 is 1, as the trainer has it and the pipeline undoes it."""
    np.testing.assert_array_equal(to_float(np.array([0, 51, 255], dtype=np.uint8)), [-1.0, -0.6, 1.0])


def test_colours_come_back_from_their_components():
    """With hardly any noise the estimate is the image itself, of colours that are mixtures of each other too."""
    rng = np.random.default_rng(5)
    mixed = np.einsum(
        "cd,ndhw->nchw", [[1, 0.2, 0.1], [0.7, 0.5, 0], [0.2, -0.4, 0.6]], rng.normal(size=(50, 3, 8, 8))
    )
    images = np.clip(128 + 30 * mixed, 0, 255).astype(np.uint8)
    model, x = fit_gaussian(images), to_float(images)
    assert not np.allclose(model.components, model.components.T, atol=0.1)
    np.testing.assert_allclose(model.wiener_estimate(x, 30.0), x, atol=1e-6)


def test_colours_have_their_own_powers():
    """Three columns of powers are three grey spectra side by side, mode by mode."""
    powers = [[3.0, 0.5, 1.0], [2.0, 0.7, 0.1], [0.5, 0.2, 0.01], [0.1, 0.05, 0.002], [0.01, 0.003, 0.001]]
    both = spectrum_from_octaves(powers, 16)
    grey = [spectrum_from_octaves([[row[c]] for row in powers], 16) for c in range(3)]
    assert both.counts.sum() == 3 * 256
    assert both.total_variance == pytest.approx(sum(one.total_variance for one in grey))
    for octave in range(5):
        inside = both.octaves == octave
        assert both.counts[inside] @ both.variances[inside] == pytest.approx(
            sum(one.counts[one.octaves == octave] @ one.variances[one.octaves == octave] for one in grey)
        )
