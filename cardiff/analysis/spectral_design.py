"""Noise levels in the manner of Benita, Elad and Keshet, "Spectral Analysis of Diffusion Models with Application to
Schedule Design" (arXiv 2502.00180): the n levels that a sampler visits, chosen for one distance of its samples.

For Gaussian data and the ideal denoiser the samples are Gaussian, with variance v and the mean's error m in each mode
(cardiff.analysis.errors). The noisiest level is given, and the others minimise

    w2:  Σ (√v − √ℓ)² + m²,                       the squared 2-Wasserstein distance, or
    kl:  ½ Σ (v/ℓ − 1 − ln(v/ℓ) + m²/ℓ),          KL(samples ‖ data) in nats,

over all modes of an image. `Optimum` (optimum.py) minimises other things: the logarithm of one or two relative errors
less a reward for structure, over a whole schedule whose last level is free below the leak gate. Only the abstract and
the introduction of the paper could be read for this file; the objectives are written out from what they say.
"""

from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize

from cardiff.analysis.errors import error_terms, relative_errors
from cardiff.analysis.optimum import LOG_SNR_MAX
from cardiff.schedulers.spectrum import Spectrum

LAST = -10.1
"""Log-SNR of the noisiest level, unless another is given: that of the linear schedule of DDPM at T = 1000."""
STARTS = 4
"""Starting points of the search: the objective has more than one minimum where octaves are far apart."""

Distance = Literal["w2", "kl"]


def designed_levels(
    spectrum: Spectrum, solver: str, steps: int, distance: Distance, last: float | None = LAST
) -> np.ndarray:
    """The log-SNRs of the visited levels, cleanest first; (n,).

    Args:
        spectrum: The data.
        solver: "ddpm" or "ddim".
        steps: Sampling steps n.
        distance: What is minimised.
        last: Log-SNR of the noisiest level; None to choose it with the others, which is not in the paper.
    """

    def levels(z: torch.Tensor) -> torch.Tensor:
        noisiest = z[:1] if last is None else z.new_full((1,), last)
        gaps = z[1:] if last is None else z
        return torch.cat([noisiest, noisiest + gaps.exp().cumsum(0)]).flip(0)

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(z, requires_grad=True)
        value = torch.log(distance_of(spectrum, levels(at), solver, distance))
        value.backward()
        assert at.grad is not None
        return value.item(), at.grad.numpy()

    # Starts: levels from the noisiest to an ever cleaner first one, evenly spaced.
    found = []
    noisiest = LAST if last is None else last
    for first in np.linspace(noisiest + LOG_SNR_MAX, LOG_SNR_MAX, STARTS):
        start = np.full(steps - 1, np.log((first - noisiest) / max(steps - 1, 1)))
        start = np.append([noisiest / 2], start) if last is None else start
        found.append(minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-13}))
    best = min(found, key=lambda result: result.fun)
    return levels(torch.from_numpy(best.x)).detach().numpy()


def distance_of(spectrum: Spectrum, log_snr: torch.Tensor, solver: str, distance: Distance) -> torch.Tensor:
    """The distance of an image sampled through these log-SNRs (n,), cleanest first, from the data; a scalar."""
    _, _, ratios, mean = error_terms(spectrum, log_snr, solver)
    counts = torch.from_numpy(spectrum.counts)
    if distance == "w2":
        return (counts * torch.from_numpy(spectrum.variances)) @ relative_errors(ratios, mean)
    assert distance == "kl"
    return counts @ (ratios - 1 - ratios.log() + mean) / 2
