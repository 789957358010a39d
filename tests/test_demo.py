"""The demonstration, cut short: what it trains from, writes and says."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from cardiff.hub.serialization import load_pipeline
from cardiff.layout import shipped_model


@pytest.fixture
def short(monkeypatch):
    for name, value in {"TRAINED_STEPS": 1, "STEPS": 2, "MEASURED": 1, "SHOWN": 1}.items():
        monkeypatch.setattr(demo, name, value)


def test_it_trains_draws_and_judges(short, tmp_path, capsys):
    demo.main(["--output_dir", str(tmp_path)])
    said = capsys.readouterr().out
    for name, images_across in {"training.png": 3, "grid.png": 4, "strip.png": 2}.items():
        assert f"{tmp_path / name}" in said
        assert Image.open(tmp_path / name).size[0] > 64 * images_across
    right = float(re.search(r"right for ([\d.]+)% of other views", said)[1])
    assert right >= 95
    assert len(re.findall(r"^  10 samples, .*: +[\d.]+%$", said, re.MULTILINE)) == 3 + 4
    assert (tmp_path / "run/model_index.json").exists()


def test_training_goes_on_from_the_weights_that_ship(tmp_path):
    start = shipped_model("cars_32_early")
    assert demo.train_on(start, tmp_path / "run", 1, 1e-9, "--train.mixed_precision", "no")
    trained, given = (load_pipeline(folder).unet.state_dict() for folder in (tmp_path / "run", start))
    for name, weights in given.items():
        torch.testing.assert_close(trained[name], weights, rtol=1e-5, atol=1e-6)


def test_the_judge_counts_what_is_right():
    share, right = demo.make_judge()
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    assert right >= 0.95 and share(images, np.arange(40) % 10) < 0.4
