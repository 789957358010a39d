"""Networks that turn images into features, and into logits if they have a head.

A Fréchet distance depends on the network, its weights and the resizing before it (Parmar et al., "On aliased resizing
and surprising subtleties in GAN evaluation", arXiv 2104.11222), so each network comes with a record of all three. Only
the distance in the features of the FID's own Inception is called FID.
"""

import os
from pathlib import Path

import torch

from cardiff.errors import UserError
from cardiff.evaluation.features.inception import INCEPTION_FILES, INCEPTION_SOURCE, inception_network
from cardiff.evaluation.features.mobilenet import MOBILENET_FILE, MOBILENET_SOURCE, mobilenet_network
from cardiff.evaluation.features.network import FeatureNetwork, Output, with_features
from cardiff.evaluation.features.torchscript import TORCHSCRIPT, torchscript_network
from cardiff.evaluation.features.vision_models import transformers_network
from cardiff.files import file_hash
from cardiff.hub.client import download
from cardiff.hub.serialization import classifier_weights_file, load_classifier
from cardiff.layout import shipped_model

MOST_PIXELS = 4096
"""Most values of an image for the network pixels: the covariance has the square of them."""
SOURCES = {"inception": INCEPTION_SOURCE, "mobilenet": MOBILENET_SOURCE}
HUB_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]
HUB_FILES += ["classifier/*.json", "classifier/*.safetensors", "scheduler/*.json"]


def load_network(spec: str, *, weights: str | None = None, device: torch.device) -> FeatureNetwork:
    """Load a network by its name or path.

    Args:
        spec: One of

            - `inception`: the network of the FID, of TensorFlow 2015, after TensorFlow's own resizing to 299 pixels.
            - `mobilenet`: torchvision's MobileNetV2 of ImageNet at 96 pixels, which a CPU can run.
            - `pixels`: the pixels from 0 to 1, for tiny images.
            - A TorchScript file, FILE.pt or FILE.ts. It is given float32 (B, 3, H, W) from 0 to 255 at the images' own
              size and returns features (B, D), or (B, D, h, w) to be averaged. Loading it runs the program in it, so
              name only files from people you trust.
            - The output folder of train_classifier.py or one of its checkpoints.
            - A folder of a transformers model, with safetensors weights.
            - A Hub repository with one of these two.
        weights: File with the weights of `inception` or `mobilenet`; by default it is looked up in $CARDIFF_WEIGHTS or
            ~/.cache/cardiff/weights.
        device: Where it runs.

    Raises:
        UserError: There is no such network, or its weights are missing or not the expected ones.
    """
    device = torch.device(device)
    if weights is not None and spec not in SOURCES:
        raise UserError(
            f"--network_weights is for the networks {' and '.join(SOURCES)}, but the network is {spec}: leave it out."
        )
    if spec == "pixels":
        return FeatureNetwork("pixels", "pixel-FD", {"kind": "pixels", "range": "0 to 1"}, None, device, _pixels)
    if spec == "inception":
        return inception_network(_find_weights(spec, list(INCEPTION_FILES.values()), weights), device)
    if spec == "mobilenet":
        return mobilenet_network(_find_weights(spec, [MOBILENET_FILE], weights), device)
    path = Path(spec)
    path = path if path.is_dir() else shipped_model(spec) or path
    if path.suffix in TORCHSCRIPT and not path.is_dir():
        return torchscript_network(path, device)
    if "/" not in spec and not path.is_dir():
        raise UserError(
            f"There is no network {spec!r}: choose from {', '.join(SOURCES)} and pixels, or give a folder, a "
            "TorchScript file or a Hub repository."
        )
    folder = path if path.is_dir() else download(spec, HUB_FILES)
    name = path.resolve().name if path.is_dir() else spec
    if (folder / "config.json").is_file():
        return transformers_network(folder, name, device)
    if (folder / "classifier").is_dir():
        return _classifier(folder, name, device)
    raise UserError(
        f"{spec} contains neither the config.json of a transformers model nor a classifier/ of train_classifier.py: "
        f"give such a folder, a TorchScript file, or one of {', '.join(SOURCES)} and pixels."
    )


def _pixels(images: torch.Tensor) -> Output:
    if images[0].numel() > MOST_PIXELS:
        size = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"Images of {size} have more than the {MOST_PIXELS:,} values that the network pixels takes: choose "
            "another --network, or train.evaluate_network."
        )
    return images.flatten(1) / 255, None


def _classifier(folder: Path, name: str, device: torch.device) -> FeatureNetwork:
    """A classifier of this project, given clean images at the first timestep."""
    network, _ = load_classifier(folder)
    run = with_features(network.to(device), network.head)
    channels, size = network.config.in_channels, network.config.sample_size

    def forward(images: torch.Tensor) -> Output:
        if images.shape[1:] != (channels, size, size):
            given, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], (channels, size, size)))
            raise UserError(f"The classifier {name} takes images of {wanted}, not {given}: give another one.")
        return run(images / 127.5 - 1, 0)

    record = {
        "kind": "classifier",
        "folder": name,
        "sha256": file_hash(classifier_weights_file(folder)),
        "size": size,
        "resize": "none",
        "range": "-1 to 1",
        "timestep": 0,
        "layer": "attention pooling",
        "features": network.head.in_features,
    }
    return FeatureNetwork(f"classifier {name}", "FD (classifier)", record, dict(network.id2label), device, forward)


def _find_weights(network: str, names: list[str], given: str | None) -> Path:
    """File with a network's weights: the given one, or the first of these names in the weights folder."""
    folder = Path(os.environ.get("CARDIFF_WEIGHTS") or "~/.cache/cardiff/weights").expanduser()
    candidates = [Path(given)] if given is not None else [folder / name for name in names]
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(
        f"The weights of {network} are missing: there is no {' and no '.join(map(str, candidates))}; download "
        f"{SOURCES[network]}, and put it there or give it with --network_weights FILE."
    )
