"""The independent classifier, and the demo that it judges."""

import re

import numpy as np
import pytest

import demo
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.evaluation.features.image_classifier import fit_image_classifier
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
