"""MobileNetV2: torchvision's own, on pixels as ImageNet has them."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from cardiff.evaluation.features import mobilenet
from tests.support.tiny_networks import images, load

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")


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
    run = mobilenet.with_features

    def watched(network, head):
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        return run(network, head)

    monkeypatch.setattr(mobilenet, "with_features", watched)
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
