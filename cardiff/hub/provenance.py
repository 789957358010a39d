"""run.json: how a model was trained, saved with every model and without local paths."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_args, get_type_hints
from urllib.parse import urlsplit

from cardiff.config.run import Kind
from cardiff.errors import UserError
from cardiff.hub.forms import fits
from cardiff.integrity import read_json
from cardiff.version import cardiff_version

RUN_RECORD = "run.json"
"""Name of the file, beside the model."""


BaseModel = dict[str, str | None]
"""The model that a run started from: its name, revision, license and weights_sha256; None where unknown."""


class RunRecord(TypedDict):
    """The content of run.json."""

    kind: Kind
    step: int
    images_seen: int
    seconds: float | None
    hardware: str
    processes: int
    precision: str
    versions: dict[str, str]
    images: int | None
    """Of the training data; None for a stream."""
    class_counts: list[int] | None
    config: dict[str, dict[str, Any]]
    """The sections of the configuration, without paths."""
    base_model: NotRequired[BaseModel]
    """What the run started from, unless that were random weights."""
    average: NotRequired[dict]
    """Of weights that average.py has made: width, step, and how much of the profile is missed."""
    report: NotRequired[dict]
    """Of a classifier: its accuracy over the noise levels."""


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json into an existing folder."""
    Path(folder, RUN_RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> RunRecord | None:
    """The run.json of a model's folder, or None if it has none.

    Raises:
        UserError: It is damaged, or was not written by this project.
    """
    file = Path(folder, RUN_RECORD)
    if not file.is_file():
        return None
    record: Any = read_json(file)
    try:
        sections = {name: dict(record["config"][name]) for name in ("data", "scheduler", "train")}
        whole_numbers = [record["step"], record["images_seen"], sections["train"]["batch_size"]]
        texts = [sections["scheduler"]["name"], sections["data"]["path"], sections["data"]["split"]]
        if record["kind"] not in get_args(Kind):
            raise UserError(f"kind is {record['kind']!r}")
        if not all(type(n) is int for n in whole_numbers) or not all(type(text) is str for text in texts):
            raise TypeError("a field is of the wrong type")
        for name, hint in get_type_hints(RunRecord).items():
            if name in record and not fits(record[name], hint):
                raise TypeError(f"{name} is of the wrong type")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged or was not written by this project ({error!r}): copy it again.") from error
    checked: RunRecord = record
    return {**checked, "config": without_paths(checked["config"])}


def without_paths(config: dict) -> dict:
    """A configuration without local paths, of which only the last part is kept, and without cache folders."""
    kept = {}
    for name, value in config.items():
        if name != "cache_dir":
            kept[name] = without_paths(value) if isinstance(value, dict) else _without_path(value)
    return kept


def _without_path(value: object) -> object:
    if isinstance(value, list):
        return [_without_path(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def public_name(text: str) -> str:
    """Text without private parts: of a path the last part, of a URL all but user, password and query."""
    if "://" in text:
        url = urlsplit(text)
        return f"{url.scheme}://{url.hostname or ''}{url.path}"
    path = Path(text)
    of_this_machine = path.is_absolute() or text.startswith("~") or ".." in path.parts or "\\" in text
    return Path(text.replace("\\", "/")).name if of_this_machine or _exists(path) else text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for the name of a file
        return False


def versions() -> dict[str, str]:
    """The versions of the packages that determine the results."""
    return {"cardiff": cardiff_version()} | {name: version(name) for name in ("torch", "diffusers", "accelerate")}
