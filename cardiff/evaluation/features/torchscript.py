"""Networks in TorchScript files, which are given the pixels as they are."""

import warnings
from pathlib import Path

import torch

from cardiff.errors import UserError
from cardiff.evaluation.features.network import FeatureNetwork, Output, pooled, rgb
from cardiff.files import file_hash

TORCHSCRIPT = (".pt", ".ts")


def torchscript_network(file: Path, device: torch.device) -> FeatureNetwork:
    network = load_torchscript(file, device)

    def forward(images: torch.Tensor) -> Output:
        features = run_torchscript(network, rgb(images).float())
        if not isinstance(features, torch.Tensor) or features.ndim not in (2, 4) or len(features) != len(images):
            raise UserError(f"{file} must return one tensor of features, (B, D) or (B, D, h, w), for B images.")
        return pooled(features), None

    record = {"kind": "torchscript", "file": file.name, "sha256": file_hash(file), "size": "as given"}
    record |= {"resize": "the network's own", "range": "0 to 255", "layer": "output"}
    return FeatureNetwork(file.stem, f"FD ({file.stem})", record, None, device, forward)


def load_torchscript(file: Path, device: torch.device) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but what such files are in
            return torch.jit.load(file, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file} cannot be read as TorchScript: save a module with torch.jit.save.") from error


def run_torchscript(network: torch.jit.ScriptModule, images: torch.Tensor) -> torch.Tensor:
    # Optimised from the second call on, a network can give the same images other bits than in the first.
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch re-exports it without saying so
        return network(images)
