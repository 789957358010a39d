"""A trial of the campaign: what was done, which command followed, and the verdict on it."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.campaign.commands import Outcome

GOOD = ("refused", "identical", "went on")
"""Verdicts that are no failure: one sentence and an exit status that is not 0; the result of an undisturbed command;
a training run that warned, went on and was identical once there was room."""
SKIPPED = ("not permitted",)
"""What this user may not try here."""
BAD = ("silent", "traceback", "unclear", "hung", "executed", "broken")
"""Exit status 0 and another result; an error that is not the user's; no sentence, or several; no end; code that ran
from a file; the campaign itself failed."""


@dataclass
class Trial:
    """One of the trials of a part."""

    part: str
    number: int
    what: str
    verdict: str
    command: str = ""
    detail: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the project did not do as it promises."""
        return self.verdict in BAD

    def to_dict(self) -> dict:
        """As a line of results.jsonl."""
        return asdict(self)


def random_of(seed: int, part: str, number: int) -> Random:
    """The random numbers of a trial, whatever the others draw."""
    return Random(int.from_bytes(hashlib.sha256(f"{seed} {part} {number}".encode()).digest()[:8]))


def judge(outcome: Outcome, same: str | None) -> tuple[str, str]:
    """Verdict and detail of a command.

    Args:
        outcome: How it ended.
        same: None if its result is that of the undisturbed command, or in what it differs; looked at if it exits
            with 0.
    """
    if outcome.hung:
        return "hung", (outcome.errors or outcome.output)[-200:]
    if outcome.traceback is not None:
        return "traceback", outcome.traceback
    if outcome.status < 0:
        return "traceback", f"ended by signal {-outcome.status}"
    if outcome.status == 0:
        return ("identical", "") if same is None else ("silent", same)
    if outcome.sentence is None:
        return "unclear", f"exit {outcome.status}: {outcome.errors[-300:]!r}"
    return "refused", outcome.sentence


UNLIKE = ("seconds", "images_per_second", "created", "date", "hardware", "host")
"""What is different each time a command runs."""
NOT_COMPARED = re.compile(r"(^|/)(\.lock|\.verified\.json|checksums\.json|.*\.lock|report\.html|.*\.svg|.*\.pdf)$")
"""Files that differ without meaning: checksums follow the seconds in run.json."""


def fingerprint(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """What each file of a folder holds, as far as it must be the same each time."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        name = path.relative_to(folder).as_posix() if path != folder else folder.name
        if path.is_file() and not NOT_COMPARED.search(name) and not any(name.startswith(o) for o in leave_out):
            found[name] = _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".png":
        with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:  # pixels, and how they were drawn
            content = image.tobytes() + json.dumps([image.size, image.mode, getattr(image, "text", {})]).encode()
    if path.suffix in (".json", ".jsonl"):
        try:
            lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
            content = json.dumps([_without_time(json.loads(line)) for line in lines]).encode()
        except (ValueError, RecursionError):
            pass
    return hashlib.sha256(content).hexdigest()


def _without_time(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_time(part) for key, part in value.items() if key not in UNLIKE}
    if isinstance(value, list):
        return [_without_time(part) for part in value]
    return value


def difference(found: dict[str, str], expected: dict[str, str]) -> str | None:
    """In which files two fingerprints differ, or None."""
    missing, more = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    parts = {"missing": missing, "too much": more, "different": other}
    said = [f"{what}: {', '.join(sorted(names)[:4])}" for what, names in parts.items() if names]
    return "; ".join(said) or None


def copy(source: Path, target: Path) -> Path:
    """A copy of a file or folder to spoil, with the times of the original."""
    if source.is_dir():
        return shutil.copytree(source, target, symlinks=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(source, target))
