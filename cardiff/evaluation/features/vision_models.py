"""Vision models of transformers, with the preprocessing that comes with them."""

import json
from importlib.metadata import version
from pathlib import Path

import torch

from cardiff.errors import UserError
from cardiff.evaluation.features.network import FeatureNetwork, Output, pooled, rgb, with_features
from cardiff.files import file_hash

PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)


def transformers_network(folder: Path, name: str, device: torch.device) -> FeatureNetwork:
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
    # A model that was saved without its pooler is used by its CLS token.
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(f"{name} lacks weights, first {missing[0]}: download or save it again.")
    network = network.to(device).eval()
    if has_head:
        if not hasattr(network, "classifier"):
            raise UserError(f"{name} is a {architectures[0]}, whose head is not supported: give another model.")
        layer, run = "input of the head", with_features(network, network.classifier)
    else:
        if hasattr(network.config, "vision_config"):
            raise UserError(f"{name} also takes text: save its vision model alone in a folder.")
        layer = "last hidden state" if loaded["missing_keys"] else "pooled output"

        def run(pixel_values: torch.Tensor) -> Output:
            output = network(pixel_values=pixel_values)
            features = None if loaded["missing_keys"] else output.get("pooler_output")
            return pooled(output.last_hidden_state if features is None else features), None

    def forward(images: torch.Tensor) -> Output:
        inputs = processor(images=rgb(images), return_tensors="pt", input_data_format="channels_first", device=device)
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
