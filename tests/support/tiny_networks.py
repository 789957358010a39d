"""Feature networks of every kind with random weights, small enough for a test."""

from pathlib import Path

import torch
from torch import nn
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

from cardiff.evaluation.features.network import FeatureNetwork
from cardiff.evaluation.features.networks import load_network
from cardiff.hub.serialization import save_classifier
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier

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


def save_networks(folder: Path) -> None:
    """One of each kind, with random weights."""
    torch.manual_seed(0)
    for name, build in MODELS.items():
        for part in build():
            part.save_pretrained(folder / name)
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), folder / "ours")
    torch.save(mobilenet_v2().state_dict(), folder / "mobile.pth")
    script(Moments(), folder / "moments.pt")


def load(folder, kind) -> FeatureNetwork:
    if kind == "mobilenet":
        return load_network(kind, weights=str(folder / "mobile.pth"), device=CPU)
    return load_network(kind if kind == "pixels" else str(folder / kind), device=CPU)
