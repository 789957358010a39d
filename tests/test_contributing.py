"""The worked examples of CONTRIBUTING.md do what the page says, and its table names files that exist."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import cardiff
from cardiff import schedulers
from cardiff.data.store import open_store
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.schedulers.scheduling_base import NoiseSchedule
from tests.conftest import ROOT, TINY_UNET
from tests.support.tiny_models import tiny_pipeline

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SCHEDULE, GUIDANCE, METRIC, SOURCE, CALLBACK = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def names_of(code: str) -> dict:
    found: dict = {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), found)
    return found


def test_a_schedule(tmp_path, monkeypatch):
    (tmp_path / "scheduling_power.py").write_text(SCHEDULE, encoding="utf-8")
    monkeypatch.setattr(schedulers, "__path__", [*schedulers.__path__, str(tmp_path)])
    monkeypatch.setattr(schedulers, "SCHEDULES", type(schedulers.SCHEDULES)())
    schedule = cardiff.make_schedule({"name": "power", "power": 3.0, "num_train_timesteps": 100})
    assert isinstance(schedule, NoiseSchedule) and schedule.config.power == 3.0
    expected = 1 - (1 - 1e-4) * (torch.arange(1, 101) / 100) ** 3
    torch.testing.assert_close(schedule.to_stock().alphas_cumprod, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(cardiff.UserError, match="power=-1.0 must be above 0"):
        cardiff.make_schedule({"name": "power", "power": -1.0})


def test_a_kind_of_guidance(tmp_path):
    """From the command line's option, and as an argument of the pipeline: the same images."""
    from cardiff.hub.serialization import save_pipeline

    (tmp_path / "ramp.py").write_text(GUIDANCE)
    ramp = names_of(GUIDANCE)["ramp"]
    assert [ramp(level) for level in (-9, -4, -1, 2, 9)] == [1, 1, 2.5, 4, 4]
    save_pipeline(tiny_pipeline(), tmp_path / "model")
    how = {"model": str(tmp_path / "model"), "labels": "bee", "num_images": 2, "steps": 4}
    folder = run(SampleOptions(output=str(tmp_path / "a"), guidance_schedule=f"{tmp_path / 'ramp.py'}:ramp", **how))
    pipeline = cardiff.load_pipeline(tmp_path / "model")
    pipeline.scheduler = cardiff.make_solver(pipeline.scheduler, "dpm")
    images, _ = cardiff.draw(pipeline, range(2), seed=0, labels=[1, 1], guidance_scale=ramp, steps=4, batch_size=2)
    drawn = np.stack([np.asarray(Image.open(folder / f"{i:06d}.png")) for i in range(2)])
    np.testing.assert_array_equal(drawn, images[..., 0])


def test_a_metric():
    spread = names_of(METRIC)["spread"]
    features = np.random.default_rng(0).normal(size=(400, 6)) * np.arange(1, 7)
    found = spread(features, replicates=500, seed=0)
    assert found.value == pytest.approx(np.trace(np.cov(features.T, ddof=0)), rel=1e-9)
    # Of the sum of D normal components' squares: variance 2·Σσ⁴/N.
    expected = np.sqrt(2 * (np.arange(1, 7) ** 4).sum() / 400)
    assert found.standard_error == pytest.approx(expected, rel=0.25)


def test_a_data_source(tmp_path):
    rows = []
    for i, name in enumerate(["red car", "blue car", "red car"]):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / f"{i}.png")
        rows.append({"file": f"{i}.png", "class": name})
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "class"])
        writer.writeheader()
        writer.writerows(rows)
    names_of(SOURCE)["load_csv"](tmp_path).save_to_disk(tmp_path / "saved")
    store = open_store(cardiff.DataConfig(path=str(tmp_path / "saved"), resolution=8, channels=1), conditional=True)
    assert store.class_names == ["blue car", "red car"] and store.labels.tolist() == [1, 0, 1]
    assert store.images[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_a_callback(tmp_path):
    options = {name.removeprefix("--"): value for name, value in zip(TINY_UNET[::2], TINY_UNET[1::2], strict=True)}
    options |= {"train.max_steps": 3, "train.sample_every": 0, "train.trackers": []}
    trainer = cardiff.build(cardiff.configure("digits_16_conditional", str(tmp_path), **options))
    trainer.callbacks = [*trainer.callbacks, names_of(CALLBACK)["NormLog"](every=2)]
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    trainer.finish()
    log = [json.loads(line) for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    norms = {entry["step"]: entry["weight_norm"] for entry in log if "weight_norm" in entry}
    expected = sum(p.detach().square().sum() for p in trainer.model.parameters()).sqrt().item()
    assert norms.keys() == {2, 3} and norms[3] == expected


def test_the_files_that_are_named_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []
    table = [line for line in TEXT.splitlines() if line.startswith("| ") and "what | where" not in line]
    assert len(table) >= 12
