"""The information that a noisy image carries about the clean one, exactly, when the data are a finite set.

Given x_t the posterior over the N images is r_j ∝ exp(−‖x_t − a·x_j‖²/2σ²). With x_t = a·x_i + σ·ε its exponent is
−½·SNR·‖x_i − x_j‖² − √SNR·ε·(x_i − x_j), so one pass over the images serves every noise level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cardiff.analysis.spectra import to_float


@dataclass(frozen=True)
class Posterior:
    """Means over images and noise, at each of L log-SNRs."""

    log_snr: np.ndarray
    information: np.ndarray
    """I(x₀; x_t) in nats, at most ln N; (L,)."""
    class_information: np.ndarray | None
    """I(class; x_t) in nats, at most the entropy of the labels; (L,)."""
    recovery: np.ndarray
    """Share of noisy images whose most probable original is the right one; (L,)."""


def exact_posterior(
    images: np.ndarray,
    labels: np.ndarray | None,
    log_snr: np.ndarray,
    *,
    queries: int = 512,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Posterior:
    """Measure the posterior of `queries` noisy images over all of `images`.

    Args:
        images: uint8 (N, C, H, W).
        labels: (N,), or None.
        log_snr: Noise levels; (L,).
        queries: How many images are noised, each once and with the same noise at every level.
        seed: Seed of which and of the noise.
        progress: Called with 1 after each level.
    """
    count, chosen = len(images), min(queries, len(images))
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(count)[:chosen])
    x = torch.from_numpy(to_float(images[asked]).reshape(chosen, -1)).float()
    noise = torch.from_numpy(rng.standard_normal(x.shape)).float()
    distances, products = torch.empty(chosen, count), torch.empty(chosen, count)  # ‖x_i − x_j‖², ε·(x_i − x_j)
    for first in range(0, count, 2000):
        part = slice(first, first + 2000)
        others = torch.from_numpy(to_float(images[part]).reshape(-1, x.shape[1])).float()
        distances[:, part] = torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        products[:, part] = (noise * x).sum(1, keepdim=True) - noise @ others.T

    own = torch.from_numpy(asked)
    classes = None if labels is None else torch.nn.functional.one_hot(torch.from_numpy(np.asarray(labels)).long())
    information, recovery, class_information = [], [], []
    for level in log_snr:
        root = float(np.exp(level / 2))
        logits = distances * (-(root**2) / 2) - products * root
        log_r = torch.log_softmax(logits, dim=1)
        r = log_r.exp()
        information.append(np.log(count) + float((r * log_r).sum(1).mean()))
        recovery.append(float((logits.argmax(1) == own).float().mean()))
        if classes is not None:
            class_information.append(_entropy(classes.float().mean(0)) - _entropy(r @ classes.float()))
        progress(1)
    return Posterior(
        np.asarray(log_snr),
        np.array(information),
        None if classes is None else np.array(class_information),
        np.array(recovery),
    )


def _entropy(shares: torch.Tensor) -> float:
    """Mean entropy of distributions in the last dimension, in nats."""
    return float(torch.special.entr(shares).sum(-1).mean())
