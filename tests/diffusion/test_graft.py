"""A grafted network is its source: to the bit where nothing is folded, for every class and the null class."""

from dataclasses import replace

import pytest
import torch

from cardiff.diffusion.graft import graft
from cardiff.errors import UserError
from cardiff.hub.read_source import read_source
from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import NAMES, tiny_pipeline, tiny_unet

TIMES = (0, 1, 400, 999)


@pytest.fixture
def conditional(tmp_path):
    """A source of the classes ant, bee and "cat, black"."""
    pipeline = tiny_pipeline(id2label=NAMES)
    save_pipeline(pipeline, tmp_path / "conditional")
    return pipeline.unet, read_source(str(tmp_path / "conditional"))


@pytest.fixture
def unconditional(tmp_path):
    unet = tiny_unet(None, seed=5)
    unet.save_pretrained(tmp_path / "bare")
    return unet, read_source(str(tmp_path / "bare"))


@torch.no_grad()
def output(unet, time, label=None, images=None):
    images = torch.randn(2, unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(time)) \
        if images is None else images  # fmt: skip
    labels = None if label is None else torch.full((2,), label)
    return unet(images, time, labels).sample


def test_an_unconditional_network_becomes_conditional_without_a_change(unconditional):
    unet, source = unconditional
    network = tiny_unet(5, seed=1)
    notes = graft(network, source, list("abcde"))
    for time in TIMES:
        expected = output(unet, time)
        for label in range(6):
            assert torch.equal(output(network, time, label), expected)
    assert notes == ["Each of the 5 classes starts as the unconditional network."]
    # And the classes can come apart: the table of zeros has gradients.
    network(torch.randn(2, 1, 8, 8), 5, torch.tensor([0, 1])).sample.square().mean().backward()
    assert (network.class_embedding.weight.grad[:2].abs().sum(1) > 0).all()


def test_classes_of_the_same_name_keep_their_row_and_others_start_from_the_null_row(conditional):
    unet, source = conditional
    names = ["zebra", "cat, black", "ant"]
    network = tiny_unet(3, seed=1)
    notes = graft(network, source, names)
    rows = [3, 2, 0, 3]  # of the source, for the three classes and the null class
    outputs = [output(unet, 7, row) for row in range(4)]
    assert not torch.equal(outputs[0], outputs[3]) and not torch.equal(outputs[2], outputs[3])
    for time in TIMES:
        for label, row in enumerate(rows):
            assert torch.equal(output(network, time, label), output(unet, time, row))
    assert notes == ["2 of 3 classes keep the embedding of the same name; the others start from its null class."]


def test_the_null_class_becomes_the_unconditional_network(conditional):
    unet, source = conditional
    network = tiny_unet(None, seed=1)
    graft(network, source, [])
    for time in TIMES:
        torch.testing.assert_close(output(network, time), output(unet, time, 3), rtol=1e-6, atol=1e-6)
        assert (output(network, time) - output(unet, time, 0)).abs().max() > 1e-3


def test_grey_becomes_rgb(unconditional):
    """An image of equal channels is seen as its grey original, and each channel predicts the same."""
    unet, source = unconditional
    network = tiny_unet(None, channels=3, seed=1)
    graft(network, source, [])
    grey = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = output(network, 9, images=grey.repeat(1, 3, 1, 1))
    for channel in range(3):
        torch.testing.assert_close(found[:, channel : channel + 1], output(unet, 9, images=grey), rtol=1e-5, atol=1e-6)


def test_rgb_becomes_grey(tmp_path):
    unet = tiny_unet(None, channels=3, seed=3)
    unet.save_pretrained(tmp_path)
    network = tiny_unet(None, seed=1)
    graft(network, read_source(str(tmp_path)), [])
    grey = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = output(unet, 9, images=grey.repeat(1, 3, 1, 1)).mean(1, keepdim=True)
    torch.testing.assert_close(output(network, 9, images=grey), expected, rtol=1e-5, atol=1e-6)


def test_a_classifier_keeps_the_rows_of_its_classes(tmp_path):
    source = tiny_classifier()
    save_classifier(source, CosineScheduler().to_stock(), tmp_path)
    network = tiny_classifier(num_classes=2, id2label={0: "bee", 1: "zebra"})
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    before = network.head.weight.clone()
    notes = graft(network, read_source(str(tmp_path)), ["bee", "zebra"])
    assert torch.equal(network.head.weight[0], source.head.weight[1])
    assert torch.equal(network.head.weight[1], before[1])
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(images, 5)[:, 0], source(images, 5)[:, 1])
    assert notes == ["1 of 2 classes keep their row; the others start at random."]


def test_weights_of_another_network_are_refused(unconditional):
    _, source = unconditional
    network = tiny_unet(None)
    del source.arguments  # only the weights are compared
    network.conv_out = torch.nn.Conv2d(8, 1, 1)
    with pytest.raises(UserError, match="its weights are not those of the network .*conv_out.weight"):
        graft(network, source, [])
    network.conv_out = torch.nn.Conv2d(8, 1, 3, bias=False)
    with pytest.raises(UserError, match="its weights are not those of the network .*conv_out.bias"):
        graft(network, source, [])


def test_weights_that_are_not_finite_are_refused(tmp_path):
    unet = tiny_unet(None)
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    unet.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="conv_in.weight in diffusion_pytorch_model.safetensors is not finite"):
        graft(tiny_unet(None), read_source(str(tmp_path)), [])


def test_half_precision_is_read(tmp_path, unconditional):
    unet, _ = unconditional
    unet.half().save_pretrained(tmp_path / "half", variant="fp16")
    network = tiny_unet(None, seed=1)
    source = read_source(str(tmp_path / "half"))
    assert {tensor.dtype for tensor in source.tensors().values()} == {torch.float32}  # what is folded is added in it
    graft(network, source, [])
    for name, weight in network.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, unet.state_dict()[name].float())


def test_old_names_of_attention_weights(tmp_path, unconditional):
    """As in the weights of google/ddpm-cifar10-32."""
    from safetensors.torch import load_file, save_file

    unet, source = unconditional
    new = load_file(source.weights)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in new.items():
        for after, before in names.items():
            name = name.replace(f".{after}.", f".{before}.")
        old[name] = tensor
    assert old.keys() != new.keys()
    unet.save_pretrained(tmp_path / "old")
    save_file(old, tmp_path / "old/diffusion_pytorch_model.safetensors")
    found = replace(source, weights=tmp_path / "old/diffusion_pytorch_model.safetensors").tensors()
    assert found.keys() == new.keys()
    network = tiny_unet(None, seed=1)
    graft(network, read_source(str(tmp_path / "old")), [])
    assert torch.equal(output(network, 3), output(unet, 3))
