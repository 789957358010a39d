"""Folders written by Cardiff 0.1, before its redesign: they load, sample the same images, evaluate and publish.

They were made from the embedded digits by six steps of the configurations digits_16_* with the networks of TINY_UNET
and TINY_CLASSIFIER, without the source files that lay beside them; the samples by the command below.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
import publish
import sample
from tests.conftest import ROOT

OLD = Path(__file__).parent / "old_folders"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the folders, and the checkout as working folder, from which their data is named."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_the_same_images_are_drawn(old, tmp_path):
    sample.main(
        [
            *("--model", str(old / "conditional"), "--classifier", str(old / "classifier")),
            *("--classifier_scale", "0.5", "--guidance_scale", "0,1,2.5"),
            *("--labels", "3,seven,0.5*three+0.5*eight", "--steps", "4", "--num_images", "18"),
            *("--output", str(tmp_path / "samples")),
        ]
    )
    assert (tmp_path / "samples/manifest.jsonl").read_text() == (OLD / "samples/manifest.jsonl").read_text()
    for i in range(18):
        before, now = (
            np.asarray(Image.open(f / f"{i:06d}.png")).astype(int) for f in (OLD / "samples", tmp_path / "samples")
        )
        assert np.abs(before - now).max() <= 1  # the last bit of a sum is the processor's own


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_they_are_evaluated_and_published(kind, old, tmp_path):
    how = ["--network", "pixels", "--steps", "2", "--num_images", "20", "--replicates", "10"]
    evaluate.main(["--model", str(old / kind), *how, "--output", str(tmp_path / "report")])
    found = json.loads((tmp_path / "report/metrics.json").read_text())
    assert found["images"] == 20 and found["metrics"]["fid"]["value"] > 0
    publish.main(
        ["--model", str(old / kind), "--metrics", str(tmp_path / "report"), "--output", str(tmp_path / "card")]
    )
    assert "16×16 grey images" in (tmp_path / "card/README.md").read_text()


def test_a_classifier_is_published(old, tmp_path):
    publish.main(["--model", str(old / "classifier"), "--output", str(tmp_path / "card")])
    assert "10 classes" in (tmp_path / "card/README.md").read_text()
