"""The Inception score: how surely a classifier assigns each sample to a class, and how many classes there are."""

import numpy as np
import torch
from scipy.special import entr, softmax
from torch_fidelity.metric_isc import isc_features_to_metric

from cardiff.evaluation.metrics.intervals import REPLICATES, Estimate, bootstrap_weights, from_bootstrap


def inception_estimate(
    logits: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: np.ndarray | None = None,
    splits: int = 10,
) -> Estimate:
    """exp E KL(p(y|x) ‖ p(y)) of logits (N, K), averaged over `splits` parts, as torch-fidelity computes it.

    Salimans et al., "Improved techniques for training GANs" (2016), section 4. The interval is from the score of all
    samples in one, resampled.
    """
    value = isc_features_to_metric(torch.from_numpy(np.array(logits)), splits)["inception_score_mean"]
    p = softmax(logits.astype(np.float64), axis=1)
    weights = bootstrap_weights(len(p), replicates, seed, strata) / len(p)  # (R, N)
    return from_bootstrap(value, np.exp(entr(weights @ p).sum(1) - weights @ entr(p).sum(1)))
