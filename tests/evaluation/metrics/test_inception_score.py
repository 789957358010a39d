"""The Inception score, against torch-fidelity's and simulation."""

import numpy as np
import pytest
import torch
from scipy.special import entr
from torch_fidelity.metric_isc import isc_features_to_metric

from cardiff.evaluation.metrics.inception_score import inception_estimate
from tests.support.feature_sets import coverage


def test_inception_score_is_that_of_torch_fidelity():
    logits = np.random.default_rng(10).standard_normal((400, 7)).astype(np.float32) * 2
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=4)
    assert inception_estimate(logits, splits=4).value == theirs["inception_score_mean"]
    # The replicates are of the same score: without resampling it is torch-fidelity's of one split.
    whole = isc_features_to_metric(torch.from_numpy(logits), splits=1)["inception_score_mean"]
    p = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    assert np.exp(entr(p.mean(0)).sum() - entr(p).sum(1).mean()) == pytest.approx(whole, rel=1e-5)
    certain = 50.0 * np.eye(7)[np.arange(70) % 7]
    assert inception_estimate(certain, splits=1).value == pytest.approx(7, rel=1e-6)  # as many as classes


def test_inception_interval_covers():
    rng = np.random.default_rng(11)
    found = [inception_estimate(2 * rng.standard_normal((200, 7)), 200, splits=1) for _ in range(300)]
    assert 0.91 < coverage(found) < 0.985


def test_the_inception_score_is_over_ten_parts_unless_asked():
    logits = np.random.default_rng(9).standard_normal((200, 12)).astype(np.float32)
    value = inception_estimate(logits, replicates=2).value
    assert value == inception_estimate(logits, replicates=2, splits=10).value
    assert value != inception_estimate(logits, replicates=2, splits=1).value
