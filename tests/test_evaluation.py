"""The independent classifier, and the demo that it judges."""

import re

import numpy as np
import pytest

import demo
from cardiff.config import DataConfig
from cardiff.data import open_store
from cardiff.evaluation import diversity, fit_image_classifier, frechet_distance
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def digits():
    files = str(ROOT / "data/digits.parquet")
    return open_store(DataConfig(data_files=files, resolution=16, channels=1, upscale=True), conditional=True)


def test_the_classifier_reads_digits_it_never_saw(digits):
    classifier = fit_image_classifier(np.asarray(digits.images), digits.labels)
    assert classifier.held_out_accuracy >= 0.98


def test_accuracy_is_the_share_read_as_asked_for(digits):
    classifier = fit_image_classifier(np.asarray(digits.images), digits.labels)
    images, labels = np.asarray(digits.images[:100]), digits.labels[:100]
    assert classifier.accuracy(images, labels) >= 0.98
    asked_for = np.where(np.arange(100) < 30, (labels + 1) % 10, labels)  # 30 of them read as something else
    assert classifier.accuracy(images, asked_for) == pytest.approx(0.7, abs=0.02)
    assert classifier.accuracy(np.random.default_rng(0).integers(0, 256, images.shape), labels) < 0.5


@pytest.mark.slow
def test_the_demo_reaches_its_shares(tmp_path, capsys):
    demo.main(["--output_dir", str(tmp_path)])
    shares = [float(share) for share in re.findall(r"([\d.]+)% of 400 samples", capsys.readouterr().out)]
    assert shares[0] >= 97 and shares[1] >= 99
    assert (tmp_path / "grid.png").exists()


def test_frechet_distance_of_known_normals():
    """In one dimension and along the axes of a diagonal covariance it is (Δμ)² + (Δσ)², summed."""
    rng = np.random.default_rng(0)
    scales, shift = np.array([0.5, 2.0, 1.0]), np.array([1.0, 0.0, -0.5])
    z = rng.standard_normal((4000, 3))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T  # exactly white
    expected = (shift**2).sum() + ((scales - 1) ** 2).sum()
    assert frechet_distance(z * scales + shift, z) == pytest.approx(expected, rel=1e-9)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance((z * scales + shift) @ turn, z @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(z, z) == pytest.approx(0, abs=1e-7)


def test_diversity_is_the_mean_distance_within_a_class():
    """Two points 5 apart, and the three corners of a right triangle of sides 3, 4 and 5."""
    points = np.array([[0, 0], [3, 4], [0, 0], [3, 0], [0, 4]])
    assert diversity(points, np.array([1, 1, 7, 7, 7])) == pytest.approx((5 + 4) / 2)
