"""Features and logits of images, computed by all processes, and cached for real images."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cardiff.config.sections import DataConfig
from cardiff.data import cache_root, open_store, random_part
from cardiff.distributed import gather_dict, gather_to_main, one_first, this_process, wait_for_everyone
from cardiff.errors import UserError
from cardiff.evaluation.features.cache import read_features, write_features
from cardiff.evaluation.features.network import FeatureNetwork
from cardiff.evaluation.metrics.frechet import Gaussian
from cardiff.hub.provenance import public_name

# Raise it when the same images and network would give other features, or the files change.
CACHE_VERSION = 1


@dataclass
class RealImages:
    """Real images of a data set in feature space: what samples are measured against."""

    features: np.ndarray | None
    """float32 (N, D); None in a file of statistics that was written without."""
    logits: np.ndarray | None
    """float32 (N, K), if the network has a head."""
    labels: np.ndarray | None
    """int64 (N,), -1 for none."""
    class_names: list[str]
    record: dict
    """The data, the network and the key that is the digest of both."""
    images: np.ndarray | None = field(repr=False, default=None)
    """uint8 (N, C, H, W); None if only statistics are at hand."""
    statistics: Gaussian | None = None
    """Mean and covariance that were read from a file."""

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and covariance of the features."""
        if self.statistics is not None:
            return self.statistics
        assert self.features is not None, "a file without features has statistics"
        return Gaussian.of(self.features)

    @property
    def dimension(self) -> int:
        """D, the number of features."""
        return self.features.shape[1] if self.features is not None else self.gaussian.mean.size

    @property
    def key(self) -> str:
        return self.record["key"]

    @property
    def count(self) -> int:
        return self.record["data"]["images"]


def extract(
    network: FeatureNetwork,
    images: np.ndarray,
    batch_size: int,
    progress: Callable[[int], object] = lambda count: None,
    everywhere: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Features (N, D) and logits (N, K) or None of uint8 images (N, C, H, W), computed by all processes together.

    The batches are fixed ranges, dealt out in turn, so that any number of processes gives the same numbers and none
    computes more than a batch more than another.

    Args:
        network: The network.
        images: The images, the same in every process.
        batch_size: Images in one pass.
        progress: Called with the number of images after each pass.
        everywhere: Give the result to every process; otherwise only to the main process, and (0, 0) to the others.

    Raises:
        UserError: Some of them are not finite.
    """
    state = this_process()
    mine: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    for first in range(state.process_index * batch_size, len(images), batch_size * state.num_processes):
        batch = torch.from_numpy(np.array(images[first : first + batch_size])).to(state.device)
        features, logits = network(batch)
        mine[first] = (features.cpu().numpy(), None if logits is None else logits.cpu().numpy())
        progress(len(batch))
    finite = all(part is None or np.isfinite(part).all() for both in mine.values() for part in both)
    if not all(gather_dict({state.process_index: finite}).values()):
        raise UserError(
            f"{network.name} gives numbers that are not finite for some of the images: give another network, or check "
            "its weights."
        )
    found = gather_dict(mine) if everywhere else gather_to_main(mine)
    parts = [part for _, part in sorted(found.items())]
    if not parts:
        return np.empty((0, 0), np.float32), None
    all_logits = [part for _, part in parts if part is not None]
    return np.concatenate([part for part, _ in parts]), np.concatenate(all_logits) if all_logits else None


def open_real(
    config: DataConfig,
    network: FeatureNetwork,
    batch_size: int,
    most: int,
    progress: Callable[[int], object] = lambda count: None,
) -> RealImages:
    """The images of a data section in a network's features, which are computed once and kept in the cache.

    Of more than `most` images a random part is taken, the same every time. A stream is read once to its end; its key
    is a digest of the images that were taken from it, as nothing else tells whether a stream is still the same.

    Raises:
        UserError: The data cannot be used.
    """
    state = this_process()
    if config.streaming:
        images, labels, class_names, total = random_part(config, most)
        pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
        key = _digest([pixels, None if labels is None else labels.tolist(), class_names])
    else:
        with one_first():
            store = open_store(config, conditional=False)
        images, labels, class_names, total, key = store.images, store.labels, store.class_names, len(store), store.key
        if total > most:
            rows = np.sort(np.random.default_rng(0).choice(total, most, replace=False))
            images, labels = images[rows], None if labels is None else labels[rows]
    data = data_record(config, key, len(images))
    if total > most:
        data["chosen_of"] = total
    digest = _digest([CACHE_VERSION, key, len(images), network.record])
    record = {"data": data, "network": network.record, "key": digest}
    folder = cache_root(config) / "features" / digest
    found = read_features(folder)
    # All or none: processes that took different branches here would wait for each other for ever.
    everyone = all(gather_dict({state.process_index: found is not None}).values())
    if found is not None and everyone:
        progress(len(images))
        features, logits = found
    else:
        features, logits = extract(network, images, batch_size, progress, everywhere=True)
        if state.is_main_process and found is None:
            write_features(folder, features, logits, record)
        wait_for_everyone()
        another_machine = state.is_local_main_process and not state.is_main_process
        if another_machine and read_features(folder) is None:  # it has a cache of its own
            write_features(folder, features, logits, record)
    return RealImages(features, logits, labels, class_names, record, images)


def data_record(config: DataConfig, key: str, count: int) -> dict:
    """What identifies a data set in a report, without the folders of this machine."""
    record = {"path": public_name(config.path), "split": config.split, "images": count}
    if config.data_files is not None:
        files = [config.data_files] if isinstance(config.data_files, str) else config.data_files
        record["data_files"] = [Path(file).name for file in files]
    for name in ("name", "revision"):
        if getattr(config, name) is not None:
            record[name] = getattr(config, name)
    for name in ("resolution", "channels", "fit", "upscale", "crop_to_box"):
        record[name] = getattr(config, name)
    return {**record, "resize": "antialiased bicubic", "pixels_key": key}


def _digest(value: object) -> str:
    """32 hex digits of a value in JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
