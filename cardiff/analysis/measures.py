"""Everything that is measured of one schedule on one data set.

Whatever depends on log-SNR alone is measured once for the data set (`DataMeasures`) and read off for each schedule.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from cardiff.analysis.errors import SOLVERS, SamplingError, sampling_error
from cardiff.analysis.posterior import Posterior, exact_posterior
from cardiff.analysis.spectra import GaussianModel, fit_gaussian, to_float
from cardiff.diffusion.levels import log_snr_of, visited_levels
from cardiff.progress import shown
from cardiff.schedulers.spectrum import Spectrum

MAX_LEAK = 1e-3
"""Nats at the last step above which a schedule counts as leaking."""
WHOLE, GONE = 0.95, 0.05
"""Share of an octave that is readable from which it counts as intact, and below which it counts as gone."""
STEPS = (10, 50, 250, 1000)
"""Numbers of sampling steps whose error is computed."""
GRID = np.arange(-20.0, 14.01, 0.5)
"""Log-SNRs at which the data set is measured."""


@dataclass(frozen=True)
class DataMeasures:
    """What a data set looks like at every noise level, whatever the schedule."""

    images: np.ndarray
    """uint8 (N, C, H, W)."""
    model: GaussianModel
    posterior: Posterior
    ssim: np.ndarray
    """Structural similarity of the Wiener estimate with the image, at the log-SNRs of GRID; (L,)."""

    def information_bound(self, log_snr: np.ndarray) -> np.ndarray:
        """½ Σ ln(1 + SNR·ℓ) in nats: I(x₀; x_t) of Gaussian data with this covariance, the most any data has; (T,)."""
        bands = merged(self.model.spectrum)
        return np.logaddexp(0, np.asarray(log_snr)[:, None] + np.log(bands.variances)) @ bands.counts / 2


@dataclass(frozen=True)
class ScheduleMeasures:
    """What one schedule does to a data set; arrays are over the T timesteps, t = (i + 1)/T."""

    name: str
    log_snr: np.ndarray
    alphas_cumprod: np.ndarray
    betas: np.ndarray
    structure: np.ndarray
    """Octave structure S, 0 to 1."""
    octaves: np.ndarray
    """Readable share of each octave; (T, octaves)."""
    information_bound: np.ndarray
    """Nats that Gaussian data of this covariance would share with x_t."""
    information: np.ndarray
    """Nats that the finite data set shares with x_t."""
    class_information: np.ndarray | None
    recovery: np.ndarray
    """Share of noisy images whose most probable original is the right one."""
    ssim: np.ndarray
    path_kl: np.ndarray
    """KL in nats of each step of the ideal T-step sampler from the true path, the last step left out; (T − 1,)."""
    leak: float
    """KL(q(x_T) ‖ N(0, I)) in nats."""
    errors: dict[tuple[str, int], SamplingError]
    """By solver and number of steps."""

    @property
    def mean_structure(self) -> float:
        """A: the octave structure averaged over the timesteps."""
        return float(self.structure.mean())

    @property
    def leaks(self) -> bool:
        """Whether a sampler that starts from pure noise misses more than MAX_LEAK nats."""
        return self.leak > MAX_LEAK

    @property
    def idle_clean(self) -> float:
        """Share of the timesteps at which every octave is still intact."""
        return float((self.octaves.min(1) > WHOLE).mean())

    @property
    def idle_noise(self) -> float:
        """Share of the timesteps at which every octave is gone."""
        return float((self.octaves.max(1) < GONE).mean())

    @property
    def half_life(self) -> float:
        """First t at which the octave structure is below one half."""
        return first_below(self.structure, 0.5)

    @property
    def octave_half_lives(self) -> list[float]:
        """First t at which each octave is less than half readable."""
        return [first_below(octave, 0.5) for octave in self.octaves.T]

    @property
    def max_beta(self) -> float:
        return float(self.betas.max())


def measure_data(
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    queries: int = 512,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> DataMeasures:
    """Measure a data set.

    Args:
        images: uint8 (N, C, H, W).
        labels: (N,), or None.
        queries: Images noised for the posterior; all N are its support.
        seed: Seed of the noise.
        progress: Called with 1 for each of the len(GRID) + 2 parts.
    """
    model = fit_gaussian(images)
    progress(1)
    posterior = exact_posterior(images, labels, GRID, queries=queries, seed=seed, progress=progress)
    ssim = wiener_ssim(images, model, GRID, seed=seed)
    progress(1)
    return DataMeasures(images, model, posterior, ssim)


def measure_schedule(name: str, alphas_cumprod: np.ndarray, data: DataMeasures) -> ScheduleMeasures:
    """Measure one schedule.

    Args:
        name: What it is called in tables and figures.
        alphas_cumprod: ᾱ in float64; (T,).
        data: The data set.
    """
    log_snr = log_snr_of(alphas_cumprod)
    spectrum, posterior = merged(data.model.spectrum), data.posterior

    def read(values: np.ndarray) -> np.ndarray:
        return np.interp(log_snr, posterior.log_snr, values)

    gain = spectrum.gain(log_snr)
    octaves = np.stack(
        [gain[:, spectrum.octaves == k] @ _shares(spectrum, k) for k in range(spectrum.octaves.max() + 1)], axis=1
    )
    excess = np.exp(log_snr[:-1, None]) - np.exp(log_snr[1:, None])  # SNR_p − SNR_s
    rho = excess * spectrum.variances / (1 + np.exp(log_snr[1:, None]) * spectrum.variances)
    finite = [n for n in STEPS if n <= len(log_snr)]
    return ScheduleMeasures(
        name=name,
        log_snr=log_snr,
        alphas_cumprod=alphas_cumprod,
        betas=1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]]),
        structure=octaves.mean(1),
        octaves=octaves,
        information_bound=data.information_bound(log_snr),
        information=read(posterior.information),
        class_information=None if posterior.class_information is None else read(posterior.class_information),
        recovery=read(posterior.recovery),
        ssim=read(data.ssim),
        path_kl=(rho - np.log1p(rho)) @ spectrum.counts / 2,
        leak=data.model.spectrum.leak(log_snr[-1]),
        errors={(s, n): sampling_error(spectrum, visited_levels(log_snr, n), s) for s in SOLVERS for n in finite},
    )


def wiener_ssim(
    images: np.ndarray, model: GaussianModel, log_snr: np.ndarray, *, count: int = 64, seed: int = 0
) -> np.ndarray:
    """Mean structural similarity of the best linear estimate of x₀ from x_t with x₀ itself; (L,).

    Not of x_t itself, whose contrast the schedule shrinks. Wang et al., "Image quality assessment: from error
    visibility to structural similarity" (2004), with an even window of 7 pixels.
    """
    rng = np.random.default_rng(seed)
    x = to_float(images[np.sort(rng.permutation(len(images))[:count])])
    noise = rng.standard_normal(x.shape)
    window = min(7, x.shape[-1] - 1 + x.shape[-1] % 2)
    found = []
    for level in shown(log_snr, "structural similarity"):
        noisy = x / np.sqrt(1 + np.exp(-level)) + noise / np.sqrt(1 + np.exp(level))
        estimate = torch.from_numpy(model.wiener_estimate(noisy, level))
        similarity = structural_similarity_index_measure(
            estimate, torch.from_numpy(x), gaussian_kernel=False, kernel_size=window, data_range=2.0
        )
        found.append(similarity.item())
    return np.array(found)


def first_below(values: np.ndarray, level: float) -> float:
    """First t = (i + 1)/T at which a falling measure is below a level; 1 if it never is."""
    below = np.flatnonzero(values < level)
    return float((below[0] + 1) / len(values)) if len(below) else 1.0


def _shares(spectrum: Spectrum, octave: int) -> np.ndarray:
    counts = spectrum.counts[spectrum.octaves == octave]
    return counts / counts.sum()


def merged(spectrum: Spectrum, resolution: float = 0.02) -> Spectrum:
    """The same spectrum in fewer bands: modes of an octave whose variances agree within 2% count as one band."""
    keys = spectrum.octaves * 1_000_000 + np.round(np.log(spectrum.variances) / resolution) + 500_000
    _, band = np.unique(keys, return_inverse=True)
    weights = spectrum.counts.astype(np.float64)
    totals = np.bincount(band, weights)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(band, weights * values) / totals

    octaves = np.round(mean(spectrum.octaves)).astype(int)
    return Spectrum(mean(spectrum.variances), totals, octaves, mean(spectrum.mean_powers))
