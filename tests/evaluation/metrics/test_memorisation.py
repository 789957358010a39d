"""Copies are found, and chance is not taken for a copy."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.errors import UserError
from cardiff.evaluation.metrics import memorisation as module
from cardiff.evaluation.metrics.memorisation import alarm_threshold, memorisation, nearest
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def digits():
    """Pixels in three parts: three quarters to train on, and two halves of the rest."""
    files = str(ROOT / "data/digits.parquet")
    store = open_store(DataConfig(data_files=files, resolution=16, channels=1, upscale=True), conditional=True)
    pixels = np.asarray(store.images).reshape(len(store.labels), -1) / 255
    order = np.random.default_rng(0).permutation(len(pixels))
    return np.split(pixels[order], [len(pixels) * 3 // 4, len(pixels) * 7 // 8])


def test_nearest_is_that_of_all_distances(monkeypatch):
    rng = np.random.default_rng(0)
    features, training = rng.standard_normal((50, 6)).astype(np.float32), rng.standard_normal((80, 6)) + 100
    training[7] = training[3]
    features = np.concatenate([features + 100, training[:1]])
    every = cdist(features, training)
    monkeypatch.setattr(module, "BLOCK", 1000)  # 12 rows
    distances, indices = nearest(features, training, count=4)
    np.testing.assert_allclose(distances, np.sort(every, 1)[:, :4], rtol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(every, indices, 1), distances, rtol=1e-9)
    assert distances[50, 0] == 0 and indices[50, 0] == 0
    with pytest.raises(UserError, match="80 training images are too few for the 81 nearest"):
        nearest(features, training, count=81)


def test_planted_copies_are_found(digits):
    training, held_out, samples = digits
    samples = samples.copy()
    samples[5] = training[40]
    samples[9] = training[70] + np.random.default_rng(1).normal(0, 0.015, 256)
    found = memorisation(samples, training, held_out)
    assert np.flatnonzero(found.alarms).tolist() == [5, 9]
    first, second, third = found.closest(3)
    assert first == {"sample": 5, "training": 40, "distance": 0.0, "alarm": True}
    assert (second["sample"], second["training"], second["alarm"]) == (9, 70, True)
    assert second["distance"] == pytest.approx(0.015 * 16, rel=0.2) and not third["alarm"]
    assert "2 of 225 are too near" in found.sentence()
    json.dumps(found.to_dict())


def test_other_real_images_are_no_copies(digits):
    training, held_out, samples = digits
    found = memorisation(samples, training, held_out)
    assert not found.alarms.any() and found.p > 0.05 and abs(found.share_near - 0.5) < 0.1
    assert 0.2 < found.threshold / found.held_out_distances.min() < 0.9


def test_a_set_of_near_copies_is_told_by_its_ranks(digits):
    """Every sample a training image and a quarter of another image: none is alarming, all of them are near."""
    training, held_out, samples = digits
    blends = samples / 4 + training[: len(samples)] * 3 / 4
    copying, far = memorisation(blends, training, held_out), memorisation(1 - samples, training, held_out)
    assert copying.share_near > 0.9 and copying.z < -10 and copying.p < 1e-20 and not copying.alarms.any()
    assert far.share_near == 0 and far.z > 10 and far.p > 0.999


def test_the_test_of_the_set_by_counting_pairs(digits):
    training, held_out, samples = digits
    found = memorisation(samples[:60], training, held_out)
    n, m = 60, len(held_out)
    nearer = (found.distances[:, None] < found.held_out_distances).sum()
    expected = (n * m - nearer - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    assert found.z == pytest.approx(expected, abs=1e-9)


def test_duplicates_among_the_real_images_silence_the_alarm(digits):
    training, held_out, samples = digits
    held_out, samples = held_out.copy(), samples.copy()
    held_out[3] = samples[4] = training[8]
    found = memorisation(samples, training, held_out)
    assert found.held_out_duplicates == 1 and found.threshold == 0 and not found.alarms.any()
    assert "single samples cannot be distinguished from chance" in found.sentence()
    assert alarm_threshold(np.zeros(60), 100) == 0


def test_false_alarms_of_a_power_law_are_as_many_as_allowed():
    """Distances U^(1/m) have such a tail throughout; twice the allowed number, or half, would be seen."""
    rng = np.random.default_rng(2)
    for m, held_out, samples, allowed in ((2, 60, 400, 0.05), (30, 60, 400, 0.05), (8, 1000, 100, 0.2)):
        alarms = []
        for _ in range(4000):
            threshold = alarm_threshold(rng.random(held_out) ** (1 / m), samples, allowed)
            alarms.append(rng.binomial(samples, threshold**m))
        assert np.mean(alarms) == pytest.approx(allowed, rel=0.25)


@pytest.mark.parametrize("dimension", [2, 16])
def test_false_alarms_and_ranks_without_copies(dimension):
    rng = np.random.default_rng(3)
    training = rng.standard_normal((500, dimension))
    found = [
        memorisation(rng.standard_normal((200, dimension)), training, rng.standard_normal((100, dimension)))
        for _ in range(300)
    ]
    assert np.mean([one.alarms.any() for one in found]) < 0.1
    p = np.array([one.p for one in found])
    for level in (0.1, 0.5, 0.9):
        assert np.mean(p < level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 300))


def test_too_few_held_out_images():
    with pytest.raises(UserError, match="49 held-out images are too few to measure memorisation"):
        alarm_threshold(np.ones(49), 100)


def test_the_threshold_allows_for_as_many_samples_as_there_are():
    """Not for the training images, of which there are more; with fifty held-out images, the fewest, there is one."""
    rng = np.random.default_rng(4)
    training, held_out, samples = (rng.standard_normal((count, 8)) for count in (400, 50, 30))
    found = memorisation(samples, training, held_out)
    distances = cdist(held_out, training).min(1)
    assert found.threshold == pytest.approx(alarm_threshold(distances, 30))
    assert 0 < alarm_threshold(distances, 400) < 0.95 * found.threshold
