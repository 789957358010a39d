"""Statistics of real images in one file, which stand for the images where these cannot be had."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.evaluation.features.extraction import RealImages
from cardiff.evaluation.features.network import FeatureNetwork
from cardiff.evaluation.metrics.frechet import Gaussian
from cardiff.files import apply_folder_permissions, write_file
from cardiff.integrity import parse_json

logger = logging.getLogger(__name__)

RECORD = "cardiff_reference"
"""What the metadata of a file hold: the data, the network, the class names and the checksum as JSON."""
DIGEST = "sha256"
"""The checksum of all of these and of the tensors."""
FIELDS = {"data", "network", "key", "class_names"}


def export_reference(real: RealImages, path: Path, with_features: bool) -> None:
    """Write the statistics of real images, and their features, into one safetensors file.

    With the features every metric but memorisation can be computed from the file, without them only the Fréchet
    distance and the class accuracy.

    Raises:
        OSError: The disk is full or not writable; the file is as it was.
    """
    tensors = {"mean": real.gaussian.mean, "covariance": real.gaussian.covariance}
    if real.labels is not None:
        tensors["labels"] = real.labels
    if with_features:
        tensors["features"] = np.ascontiguousarray(real.features)
    record = {**real.record, "class_names": real.class_names}

    def write(file: Path) -> None:
        # In one entry, as safetensors writes several in no order.
        save_file(tensors, file, metadata={RECORD: json.dumps({**record, DIGEST: _digest(record, tensors)})})
        apply_folder_permissions(file)

    write_file(path, write)


def import_reference(path: Path, network: FeatureNetwork) -> RealImages:
    """Read a file of `export_reference`.

    Raises:
        UserError: It is not such a file, it is damaged, or its features are of another network than the samples'.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors and numpy raise nearly every type on bad bytes
        raise UserError(f"{path} cannot be read as reference statistics ({error}): export them again.") from error
    if RECORD not in metadata:
        raise UserError(f"{path} does not contain reference statistics: write them with --export_reference.")
    record = parse_json(dict, metadata[RECORD], f"The record in {path}")
    _verify(path, record, tensors)
    _check_form(path, record, tensors)
    theirs, class_names = record["network"], record.pop("class_names")
    if theirs != json.loads(json.dumps(network.record)):
        raise UserError(
            f"{path} was made with another network or preprocessing ({_first_difference(theirs, network.record)}): "
            "give that network, or export the statistics again."
        )
    statistics = Gaussian(tensors["mean"], tensors["covariance"], record["data"]["images"])
    features, labels = tensors.get("features"), tensors.get("labels")
    return RealImages(features, None, labels, class_names, record, statistics=statistics)


def _digest(record: dict, tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of everything that is in a file."""
    digest = hashlib.sha256(json.dumps(record).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _verify(path: Path, record: dict, tensors: dict[str, np.ndarray]) -> None:
    """Refuse a file that is not as it was written, and take the checksum from the record.

    A file of an earlier version has none.
    """
    expected = record.pop(DIGEST, None)
    if expected is None and record.keys() <= FIELDS:
        if this_process().is_main_process:
            logger.warning(
                "%s was exported by an earlier version, without a checksum: damage would not be noticed.", path
            )
    elif expected != _digest(record, tensors):
        raise UserError(f"{path} is damaged (it does not match its checksum): copy it or export the statistics again.")


def _check_form(path: Path, record: dict, tensors: dict[str, np.ndarray]) -> None:
    """Refuse a file whose parts are not those of statistics, or do not fit each other.

    Raises:
        UserError: In one sentence.
    """
    if not {"mean", "covariance"} <= tensors.keys():
        raise UserError(f"{path} does not contain reference statistics: write them with --export_reference.")
    try:
        data, names = record["data"], record["class_names"]
        count, texts = data["images"], [record["key"], data["split"], *data.get("data_files", [data["path"]]), *names]
        known = (
            isinstance(record["network"], dict)
            and type(count) is int
            and count > 1
            and all(type(text) is str for text in texts)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not say of which data its statistics are ({error!r}): export them again."
        ) from error
    dimension = tensors["mean"].size
    shapes = {"mean": (dimension,), "covariance": (dimension, dimension), "features": (count, dimension)}
    shapes["labels"] = (count,)
    fits = all(name in shapes and shapes[name] == tensor.shape for name, tensor in tensors.items())
    whole = all(tensor.dtype.kind == ("i" if name == "labels" else "f") for name, tensor in tensors.items())
    if not (known and fits and whole and all(np.isfinite(tensor).all() for tensor in tensors.values())):
        raise UserError(f"{path} holds statistics that do not fit each other or are no numbers: export them again.")
    labels = tensors.get("labels", np.array([-1]))
    if labels.min() < -1 or labels.max() >= len(names):
        raise UserError(f"{path} has labels of classes that it does not name: export the statistics again.")


def _first_difference(one: dict, other: dict) -> str:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            return f"{name} is {one.get(name)} there and {other.get(name)} here"
    return "no field differs"
