"""The models that ship: small, loadable by anyone, and of the data and configurations that ship, too."""

import json

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DiffusionPipeline
from PIL import Image

import sample
from cardiff.config.run import parse_run
from cardiff.data import open_store
from cardiff.evaluation.features.networks import load_network
from cardiff.files import file_hash
from cardiff.hub.provenance import read_record
from cardiff.hub.serialization import load_classifier, load_pipeline
from cardiff.integrity import find_damage
from cardiff.layout import shipped_model, shipped_models
from tests.conftest import ROOT

MOST_BYTES = 8_000_000
KINDS = {
    "cars_32": "conditional",
    "cars_32_classifier": "classifier",
    "cars_32_early": "conditional",
    "cars_32_judge": "classifier",
    "cars_32_unconditional": "unconditional",
}
CPU = torch.device("cpu")


def test_these_models_ship():
    assert shipped_models() == sorted(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_is_small_and_says_what_it_is(name):
    folder = shipped_model(name)
    (weights,) = folder.glob("*/*.safetensors")
    assert weights.stat().st_size < MOST_BYTES
    record, config = read_record(folder), yaml.safe_load((folder / "config.yaml").read_text())
    assert record["kind"] == config["kind"] == KINDS[name]
    card = (folder / "README.md").read_text()
    assert "GPL-2.0-or-later and Free Art License 1.3" in card and str(ROOT) not in card
    assert all((folder / image).is_file() for image in images_of(card))


def images_of(card: str) -> list[str]:
    return [part.split(")")[0] for part in card.split("](")[1:] if part.split(")")[0].endswith(".png")]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_was_trained_by_its_shipped_configuration(name):
    """Up to what does not change the result: folders, logging and how often something is saved.

    Options that came after the model count as left at their defaults, as when its training is resumed. The diffusion
    models were trained before the configurations drew timesteps by loss: models/README.md.
    """
    kind = KINDS[name]
    config = ROOT / f"configs/{name if name == 'cars_32_judge' else f'cars_32_{kind}'}.yaml"
    used, shipped = (
        parse_run(["--config", str(file), "--output_dir", "x"], kind=kind, description="").to_dict()
        for file in (shipped_model(name) / "config.yaml", config)
    )
    if kind != "classifier":
        drawn = [config["train"].pop("timestep_sampling") for config in (used, shipped)]
        assert drawn == ["uniform", "loss"]
    ignored = {"keep_checkpoints_every", "checkpoint_every", "sample_every", "report_every", "log_every"}
    for section in ("data", "scheduler", "classifier" if kind == "classifier" else "unet", "train"):
        given = {key: value for key, value in used[section].items() if key not in ignored}
        assert given == {key: value for key, value in shipped[section].items() if key not in ignored}
    epochs = 10 if name == "cars_32_early" else shipped["train"]["epochs"]
    pictures = 1800 if kind == "classifier" else 2000  # a tenth is held out
    assert read_record(shipped_model(name))["images_seen"] == pytest.approx(epochs * pictures, abs=64)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_code_beside_the_weights_is_the_projects(name):
    """Otherwise publish the model again: models/README.md says how."""
    for file in shipped_model(name).rglob("*.py"):
        assert file.read_bytes() == (ROOT / "pipelines" / file.name).read_bytes()
    assert find_damage(shipped_model(name)) is None


def test_the_conditional_model_loads_without_the_project():
    pipeline = DiffusionPipeline.from_pretrained(str(shipped_model("cars_32")), trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(class_labels=["beetle"], guidance_scale=1.5, num_inference_steps=2).images
    assert images[0].size == (32, 32)


def test_the_unconditional_model_is_a_stock_pipeline():
    pipeline = DDPMPipeline.from_pretrained(str(shipped_model("cars_32_unconditional")))
    assert type(pipeline) is DDPMPipeline and pipeline.unet.config.num_class_embeds is None


def test_the_judge_is_right_for_the_test_views():
    """And is not the network that guides."""
    network = load_network("cars_32_judge", device=CPU)
    data = parse_run(
        ["--config", str(ROOT / "configs/cars_32_classifier.yaml"), "--output_dir", "x"],
        kind="classifier",
        description="",
    ).data
    data.data_files = str(ROOT / "data/cars32_test.parquet")
    store = open_store(data, conditional=True)
    images = torch.from_numpy(np.array(store.images))  # uint8 (400, 3, 32, 32)
    predicted = torch.cat([network(part)[1].argmax(1) for part in images.split(100)]).numpy()
    assert list(network.id2label.values()) == list(store.class_names)
    assert (predicted == store.labels).mean() >= 0.95
    guide, judge = (load_classifier(shipped_model(name))[0] for name in ("cars_32_classifier", "cars_32_judge"))
    assert not torch.equal(next(guide.parameters()), next(judge.parameters()))


def test_drawing_needs_no_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample.main(["--labels", "fire truck", "--num_images", "2", "--steps", "8", "--output", "drawn"])
    images = [np.asarray(Image.open(tmp_path / f"drawn/00000{i}.png")) for i in range(2)]
    assert [image.shape for image in images] == [(32, 32, 3)] * 2
    record = json.loads((tmp_path / "drawn/manifest.jsonl").read_text().splitlines()[0])
    (weights,) = shipped_model("cars_32").glob("unet/*.safetensors")
    assert record["name"] == "fire truck" and record["weights_sha256"] == file_hash(weights)
    assert load_pipeline(shipped_model("cars_32")).unet.dtype == torch.float32
