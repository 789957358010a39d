"""Features of real images on the disk: verified when they are read, and computed again if they are damaged."""

import json
import logging
import os
from pathlib import Path

import numpy as np

from cardiff.caches import lock_of, remove_unfinished
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.files import written_aside
from cardiff.integrity import find_damage, read_json, write_checksums

logger = logging.getLogger(__name__)

ROWS = 4096
"""Images whose features are looked at together."""


def read_features(folder: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Features and logits from the cache; None if they are missing, or damaged in any way."""
    if not folder.exists():
        return None
    try:
        return _read(folder)
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError) as error:
        if this_process().is_main_process:
            logger.warning(
                "The features in %s are damaged, or of an earlier version (%s), and are computed again.",
                *(folder, str(error).rstrip(".")),
            )
        return None


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    damage = find_damage(folder, remember=True)
    if damage is not None:
        raise UserError(damage)
    meta = read_json(folder / "meta.json")
    features = np.load(folder / "features.npy", mmap_mode="r")
    logits = np.load(folder / "logits.npy", mmap_mode="r") if meta["logits"] else None
    if list(features.shape) != meta["shape"] or features.ndim != 2 or features.dtype.kind not in "fiu":
        raise UserError("features.npy is not what meta.json describes")
    if logits is not None and (logits.ndim != 2 or len(logits) != len(features) or logits.dtype.kind not in "fiu"):
        raise UserError("logits.npy does not fit features.npy")
    for array in [features] if logits is None else [features, logits]:
        for start in range(0, len(array), ROWS):
            if not np.isfinite(array[start : start + ROWS]).all():
                raise UserError("it holds numbers that are not finite")
    return features, logits


def write_features(folder: Path, features: np.ndarray, logits: np.ndarray | None, record: dict) -> None:
    """Write features into the cache, replacing what is there.

    Other processes may write the same features, or clear the cache, at the same time: what was computed is at hand.

    Raises:
        UserError: The disk is full or not writable.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder.parent)
        # The lock may be removed with the cache while it is held, so that two processes can have it.
        with lock_of(folder), written_aside(folder, per_process=True) as aside:
            aside.mkdir(parents=True)
            np.save(aside / "features.npy", features)
            if logits is not None:
                np.save(aside / "logits.npy", logits)
            meta = {"shape": list(features.shape), "logits": logits is not None, **record}
            (aside / "meta.json").write_text(json.dumps(meta, indent=1))
            write_checksums(aside)
    except OSError as error:
        # mkdir reports a folder that was removed a moment later as one that exists.
        if isinstance(error, (FileNotFoundError, FileExistsError)) and not folder.parent.is_file():
            logger.warning("The cache %s was cleared while features were written to it.", folder.parent)
            return
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"The cache {folder.parent} cannot be written ({reason}): make room, or set data.cache_dir or "
            "CARDIFF_CACHE elsewhere."
        ) from error
