"""The spectrum of a data set, and what the Gaussian model with that spectrum says about a noise level.

Natural images have most of their variance in few low frequencies, so noise takes them apart octave by octave: a
frequency f is readable while SNR · P(f) > 1 (Rissanen, Heinonen and Solin, arXiv 2206.13397). Pixels are in [-1, 1],
log-SNR λ = ln(ᾱ/(1 − ᾱ)) is in nats, and everything is float64.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spectrum:
    """Variances of a data set's modes (a spatial frequency of one colour component), in M bands of equal modes."""

    variances: np.ndarray
    """Variance ℓ of each mode of a band, under the orthonormal Fourier transform; (M,)."""
    counts: np.ndarray
    """Modes in each band; (M,), summing to the number of values in an image."""
    octaves: np.ndarray
    """Octave of each band: 0 is the image's mean, k ≥ 1 the frequencies from 2^(k−1) to 2^k cycles an image; (M,)."""
    mean_powers: np.ndarray
    """Squared coefficient of the mean image, averaged over the modes of each band; (M,)."""

    def __post_init__(self) -> None:
        for name in ("variances", "counts", "mean_powers"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))

    @property
    def total_variance(self) -> float:
        """Variance of an image, summed over its values."""
        return float(self.counts @ self.variances)

    @property
    def pixel_weights(self) -> np.ndarray:
        """Share of each band in the total variance; (M,), summing to 1."""
        return self.counts * self.variances / self.total_variance

    @property
    def octave_weights(self) -> np.ndarray:
        """Share of each band in its octave's variance, every octave counting the same; (M,), summing to 1."""
        return _within_octaves(self.counts * self.variances, self.octaves)

    @property
    def mode_weights(self) -> np.ndarray:
        """Share of each band in its octave's modes, every octave counting the same; (M,), summing to 1."""
        return _within_octaves(self.counts, self.octaves)

    def gain(self, log_snr: np.ndarray) -> np.ndarray:
        """Wiener gain w = SNR·ℓ/(1 + SNR·ℓ): the share of each band that is still readable; (L, M)."""
        with np.errstate(divide="ignore"):
            return 1 / (1 + np.exp(-(np.asarray(log_snr)[:, None] + np.log(self.variances))))

    def structure(self, log_snr: np.ndarray) -> np.ndarray:
        """Octave structure S: the gain averaged within each octave, then over octaves; (L,), from 0 to 1."""
        return self.gain(log_snr) @ self.mode_weights

    def leak(self, log_snr: float) -> float:
        """KL(q(x_T) ‖ N(0, I)) in nats at the last log-SNR, for the Gaussian model with the set's mean."""
        alpha_bar = 1 / (1 + np.exp(-log_snr))
        excess = alpha_bar * (self.variances - 1)
        return float(self.counts @ (excess - np.log1p(excess) + alpha_bar * self.mean_powers)) / 2

    def log_snr_of_leak(self, nats: float) -> float:
        """The largest log-SNR whose leak is at most `nats`."""
        low, high = -60.0, 20.0
        if not self.leak(low) < nats < self.leak(high):
            raise ValueError(f"max_leak={nats} nats cannot be met: choose a value between 1e-9 and 1, such as 1e-3.")
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.leak(middle) <= nats else (low, middle)
        return low


def octave_of(radius: np.ndarray) -> np.ndarray:
    """Octave of a spatial frequency in cycles an image: 0 below 1, else 1 + ⌊log₂ f⌋."""
    return np.where(radius < 1, 0, 1 + np.floor(np.log2(np.maximum(radius, 1)))).astype(int)


def frequencies(resolution: int) -> np.ndarray:
    """Radius in cycles an image of every two-dimensional frequency of a square image; (resolution, resolution)."""
    axis = np.fft.fftfreq(resolution) * resolution
    return np.hypot(axis[:, None], axis[None])


def spectrum_from_octaves(
    octave_powers: list[list[float]] | None, resolution: int, mean_square: float = 0.0
) -> Spectrum:
    """A smooth spectrum with the given mean power in each octave.

    Between the octaves' centres the power follows straight lines in log-log coordinates. The arguments are those of
    `spectrum_arguments` in arguments.py; without octave_powers the pixels have a variance of 0.25.

    Raises:
        ValueError: Another number of octaves than the resolution has, or powers that are not above 0.
    """
    radius = frequencies(resolution).ravel()
    octaves = octave_of(radius)
    rows = octaves.max() + 1
    if octave_powers is None:
        power = 1 / np.maximum(radius, 0.5) ** 2
        power *= 0.25 * len(power) / power.sum()
        octave_powers = [[power[octaves == k].mean()] for k in range(rows)]
    powers = np.asarray(octave_powers, dtype=np.float64)
    if powers.ndim != 2 or len(powers) != rows:
        raise ValueError(
            f"octave_powers has {len(octave_powers)} rows, but an image of {resolution} pixels has {rows} octaves, "
            "the first for its mean: give a list for each, with a power for each colour component."
        )
    if not (np.all(np.isfinite(powers)) and np.all(powers > 0)):
        raise ValueError("octave_powers must be finite and above 0 everywhere.")

    # Bands: the modes that share octave and rounded radius.
    keys, band, counts = np.unique(octaves * 10_000 + np.round(radius), return_inverse=True, return_counts=True)
    band_octave = (keys // 10_000).astype(int)
    band_radius = np.bincount(band, radius) / counts
    centre = [np.log(radius[octaves == k]).mean() for k in range(1, rows)]
    variances = np.empty((len(keys), powers.shape[1]))
    for colour in range(powers.shape[1]):
        variances[:, colour] = np.exp(_interpolate(np.log(np.maximum(band_radius, 0.5)), centre, powers[1:, colour]))
        for k in range(rows):  # every octave keeps its mean power
            inside = band_octave == k
            mean = counts[inside] @ variances[inside, colour] / counts[inside].sum()
            variances[inside, colour] *= powers[k, colour] / mean
    colours = powers.shape[1]
    mean_powers = np.where(band_octave == 0, mean_square * resolution**2, 0.0)
    return Spectrum(
        variances.ravel(), np.repeat(counts, colours), np.repeat(band_octave, colours), np.repeat(mean_powers, colours)
    )


def _interpolate(x: np.ndarray, centres: list[float], powers: np.ndarray) -> np.ndarray:
    """Log power at log radius x: straight lines through the octaves' centres, continued beyond the outer ones."""
    y = np.log(powers)
    if len(centres) == 1:
        return np.full_like(x, y[0])
    inner = np.interp(x, centres, y)
    first, last = (y[1] - y[0]) / (centres[1] - centres[0]), (y[-1] - y[-2]) / (centres[-1] - centres[-2])
    return inner + first * np.minimum(x - centres[0], 0) + last * np.maximum(x - centres[-1], 0)


def _within_octaves(values: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    totals = np.bincount(octaves, values)
    return values / totals[octaves] / len(totals)
