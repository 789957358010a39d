"""The measurements of a comparison on the disk: a line each, with a checksum, so that the same command goes on."""

import hashlib
import json
import logging
from pathlib import Path

from cardiff.errors import UserError
from cardiff.evaluation.compare.candidates import Trial
from cardiff.files import append_text, write_text
from cardiff.integrity import parse_json

logger = logging.getLogger(__name__)

CHECKSUM = "sha256"
"""Name of a line's checksum."""


def append_trial(file: Path, key: str, trial: Trial) -> None:
    """Add a measurement.

    Raises:
        OSError: The disk is full or not writable; the file is as it was.
    """
    entry = {"key": key, **trial.to_dict()}
    append_text(file, json.dumps({**entry, CHECKSUM: _checksum(entry)}) + "\n")


def read_trials(file: Path) -> tuple[dict[str, dict], int]:
    """What `Trial.from_dict` takes of each measurement, by key; and the number of lines that are not whole.

    A killed process can leave its last line incomplete, and those of earlier versions have no checksum.
    """
    known, damaged = {}, 0
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for line in lines:
        try:
            entry = parse_json(dict, line, str(file))
            if entry.pop(CHECKSUM, None) != _checksum(entry):
                raise UserError(f"A line of {file} does not match its checksum.")
            key = entry.pop("key")
            Trial.from_dict(entry, file.parent)
            known[key] = entry
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            damaged += 1
    return known, damaged


def keep_whole(file: Path, known: dict[str, dict], damaged: int) -> None:
    """Write the whole lines alone, and say that the others are measured again."""
    if damaged:
        logger.warning(
            "%d measurements in %s are damaged, or of an earlier version, and are made again.", damaged, file
        )
        entries = [{"key": key, **entry} for key, entry in known.items()]
        write_text(file, "".join(json.dumps({**entry, CHECKSUM: _checksum(entry)}) + "\n" for entry in entries))


def _checksum(entry: dict) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()
