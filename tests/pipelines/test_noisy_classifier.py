"""The classifier by itself: its forms of a timestep, its file, and how its gradient fades with the signal."""

import json

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from cardiff.pipelines import NoisyClassifier
from cardiff.pipelines.noisy_classifier import AttentionPooling
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import ALPHAS_CUMPROD, NAMES, tiny_classifier


def images(count=4, channels=1, size=8, seed=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_head_dim": None},
        {"resnet_time_scale_shift": "scale_shift", "dropout": 0.5},
        {"in_channels": 3, "sample_size": 16},
        {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "id2label": None, "num_classes": 5},
    ],
    ids=str,
)
def test_shapes(options):
    classifier = tiny_classifier(**options)
    size, channels = classifier.config.sample_size, classifier.config.in_channels
    logits = classifier(images(4, channels, size), 10)
    assert logits.shape == (4, classifier.config.num_classes) and logits.isfinite().all()


def test_forms_of_a_timestep():
    classifier, x = tiny_classifier(), images()
    expected = classifier(x, 700)
    for timestep in (torch.tensor(700), torch.tensor([700]), torch.full((4,), 700), torch.tensor(700.0)):
        torch.testing.assert_close(classifier(x, timestep), expected, rtol=0, atol=0)
    mixed = classifier(x, torch.tensor([700, 3, 700, 999]))
    torch.testing.assert_close(mixed[[0, 2]], expected[[0, 2]])
    torch.testing.assert_close(mixed[1:2], classifier(x[1:2], 3))
    assert not torch.allclose(mixed[3], expected[3])


def test_pooling():
    """Against attention written out; and it is no bag of features: what is moved is read otherwise."""
    torch.manual_seed(0)
    pooling, features = AttentionPooling(8, positions=4, heads=2).double(), torch.randn(3, 8, 2, 2).double()
    tokens = torch.cat([features.mean(dim=(2, 3))[:, None], features.reshape(3, 8, 4).mT], 1)  # (B, 1 + HW, C)
    tokens = tokens + pooling.positional_embedding
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        query, keys = pooling.to_query(tokens)[:, 0, head], pooling.to_key(tokens)[..., head]
        weights = torch.softmax(torch.einsum("bc,bnc->bn", query, keys) / 2, dim=1)  # √4 channels
        parts.append(torch.einsum("bn,bnc->bc", weights, pooling.to_value(tokens)[..., head]))
    torch.testing.assert_close(pooling(features), torch.cat(parts, 1))
    assert not torch.allclose(pooling(features.flip(-1)), pooling(features), atol=1e-3)


def test_save_and_reload_is_identical(tmp_path):
    classifier, x = tiny_classifier(), images()
    classifier.save_pretrained(tmp_path)
    files = ["config.json", "diffusion_pytorch_model.safetensors", "noisy_classifier.py"]
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    loaded = NoisyClassifier.from_pretrained(tmp_path)
    assert loaded.id2label == NAMES and not loaded.training
    for t in (0, 500, 999):
        torch.testing.assert_close(loaded(x, t), classifier(x, t), rtol=0, atol=0)
    torch.testing.assert_close(loaded.input_scale, ALPHAS_CUMPROD.sqrt(), rtol=0, atol=0)


def gradient(classifier, x, t, label=1):
    x = x.clone().requires_grad_()
    logits = classifier(x, t)
    return torch.autograd.grad(torch.log_softmax(logits, 1)[:, label].sum(), x)[0]


def test_the_gradient_vanishes_with_the_signal():
    """Divided by a = √ᾱ it stays of one size where the signal ends, as the exact one does, whatever the weights."""
    classifier, x = tiny_classifier().double(), images().double()
    sizes = torch.stack([gradient(classifier, x, t).norm() / ALPHAS_CUMPROD[t].sqrt() for t in (997, 998, 999)])
    assert sizes.max() < 1.5 * sizes.min()  # while a falls by a factor of 60


def test_a_last_step_of_pure_noise_says_nothing():
    """ᾱ = 0, as with rescale_betas_zero_snr: the same logits whatever the image, and no gradient."""
    alphas = CosineScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").alphas_cumprod
    classifier, x = tiny_classifier(alphas_cumprod=alphas.tolist()), images()
    logits = classifier(x, 999)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
    assert (gradient(classifier, x, 999) == 0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"id2label": {0: "ant"}}, "id2label names the classes \\[0\\], but the classifier has the classes 0 to 2"),
        ({"down_block_types": ("DownBlock2D",)}, "for each of 2 resolutions"),
        ({"down_block_types": ("DownBlock2D", "UpBlock2D")}, "one of DownBlock2D and AttnDownBlock2D"),
        ({"attention_head_dim": 6}, "attention_head_dim=6 must divide the last of block_out_channels, 16"),
    ],
)
def test_refusals(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_classifier(**options)


@pytest.mark.parametrize("count", [12, 196])
def test_names_are_in_the_order_of_their_indices(count):
    order = np.random.default_rng(count).permutation(count).tolist()
    classifier = tiny_classifier(num_classes=count, id2label={str(i): f"class {i}" for i in order})
    config = json.loads(classifier.to_json_string())
    assert list(config["id2label"]) == sorted(map(str, range(count)))  # of text, as diffusers writes JSON
    for each in (classifier, NoisyClassifier.from_config(config)):
        assert list(each.id2label.items()) == [(i, f"class {i}") for i in range(count)]


def test_options_reach_every_block():
    """Dropout acts while training and never else; scale_shift takes two numbers of a channel from the timestep."""
    resnets = {
        name: [block for block in tiny_classifier(**options).modules() if isinstance(block, ResnetBlock2D)]
        for name, options in (("plain", {}), ("dropped", {"dropout": 0.4}))
    }
    assert len(resnets["plain"]) == 4  # one for each resolution, two in the middle
    assert {block.dropout.p for block in resnets["dropped"]} == {0.4}
    assert {block.dropout.p for block in resnets["plain"]} == {0.0}
    shifted = tiny_classifier(resnet_time_scale_shift="scale_shift")
    for block, plain in zip((b for b in shifted.modules() if isinstance(b, ResnetBlock2D)), resnets["plain"]):
        assert block.time_emb_proj.out_features == 2 * plain.time_emb_proj.out_features == 2 * block.out_channels
