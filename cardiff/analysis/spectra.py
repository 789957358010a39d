"""The Gaussian model of a data set: its mean and its spectrum, measured."""

from dataclasses import dataclass

import numpy as np

from cardiff.errors import UserError
from cardiff.progress import shown
from cardiff.schedulers.spectrum import Spectrum, frequencies, octave_of


@dataclass(frozen=True)
class GaussianModel:
    """The normal distribution with a data set's mean and its variance at each frequency of each colour component."""

    mean: np.ndarray
    """Mean image, in [-1, 1]; (C, H, H)."""
    components: np.ndarray
    """Colour components, one a column; (C, C)."""
    spectrum: Spectrum
    """A band for each mode, C·H·H of them."""

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Orthonormal Fourier coefficients of the colour components of images (…, C, H, H), same shape."""
        return _transform(x, self.components)

    def wiener_estimate(self, noisy: np.ndarray, log_snr: float) -> np.ndarray:
        """E[x₀ | x_t] under this model, the best linear estimate; images (N, C, H, H)."""
        a = np.sqrt(1 / (1 + np.exp(-log_snr)))
        gain = self.spectrum.gain(np.array([log_snr])).reshape(self.mean.shape)
        coefficients = self.transform(noisy - a * self.mean) * gain / a
        return self.mean + np.einsum(
            "...dhw,cd->...chw", np.fft.ifft2(coefficients, norm="ortho").real, self.components
        )


def fit_gaussian(images: np.ndarray, batch_size: int = 1000) -> GaussianModel:
    """Measure mean, colour components and spectrum.

    Colours are turned to the principal components of the set's colour covariance first, since red, green and blue are
    nearly the same picture: taken as three independent ones they would hide most of the variance of the grey one.

    Args:
        images: uint8 (N, C, H, H).
        batch_size: Images transformed at once.

    Raises:
        UserError: Fewer than two images, or images that are all identical.
    """
    count, channels, size, _ = images.shape
    if count < 2:
        raise UserError(
            f"The spectrum is measured from 2 or more images, but the data set has {count}: name a larger one."
        )
    batches = [slice(first, first + batch_size) for first in range(0, count, batch_size)]
    mean = sum(to_float(images[batch]).sum(0) for batch in shown(batches, "mean image")) / count  # (C, H, W)
    covariance = np.zeros((channels, channels))
    for batch in shown(batches, "covariance of the channels"):
        centred = to_float(images[batch]) - mean
        covariance += np.einsum("nchw,ndhw->cd", centred, centred)
    if not covariance.any():
        raise UserError("All images of the data set are identical: name another data set.")
    components = np.linalg.eigh(covariance)[1]

    turns = shown(batches, "spectrum")
    power = sum((np.abs(_transform(to_float(images[batch]) - mean, components)) ** 2).sum(0) for batch in turns)
    # A frequency without variance, such as a constant border makes, carries nothing and has no octave share to lose.
    variances = np.maximum(power.ravel() / (count - 1), 1e-12 * power.max() / (count - 1))
    octaves = np.tile(octave_of(frequencies(size)).ravel(), channels)
    mean_powers = np.abs(_transform(mean, components)).ravel() ** 2
    return GaussianModel(mean, components, Spectrum(variances, np.ones(len(variances)), octaves, mean_powers))


def octave_arguments(model: GaussianModel) -> dict:
    """The arguments of the spectral schedules that describe a data set by the mean power of its octaves."""
    channels, resolution = model.mean.shape[:2]
    variances = model.spectrum.variances.reshape(channels, -1)
    octaves = model.spectrum.octaves.reshape(channels, -1)[0]
    powers = [[variances[c, octaves == k].mean() for c in range(channels)] for k in range(octaves.max() + 1)]
    return {
        "octave_powers": [[float(f"{power:.4g}") for power in row] for row in powers],
        "resolution": resolution,
        "mean_square": float(f"{(model.mean**2).mean():.4g}"),
    }


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 to float64 in [-1, 1], as the trainer does."""
    return images / 127.5 - 1.0


def _transform(x: np.ndarray, components: np.ndarray) -> np.ndarray:
    return np.fft.fft2(np.einsum("...chw,cd->...dhw", x, components), norm="ortho")
