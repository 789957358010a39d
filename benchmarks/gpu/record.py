"""What a part has found so far: one JSON file, written anew at every change, so that a killed call loses nothing."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardiff.files import write_text

RUNNING, DONE, FAILED, SKIPPED, WAITING = "running", "done", "failed", "skipped", "waiting"


class Skipped(Exception):
    """An entry cannot be done here; the message says what it needs."""


class Failed(Exception):
    """What was found is not as it should be; any other exception counts as well, and is noted with its traceback."""


@dataclass
class Record:
    """The entries of a part, each {"name", "status", "seconds", …}."""

    file: Path
    part: str
    title: str
    machine: dict[str, Any]
    """Card, versions and commit."""
    command: str
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> "Record | None":
        """What was recorded before, if anything was."""
        if not file.exists():
            return None
        content = json.loads(file.read_text())
        known = {name: content[name] for name in ("part", "title", "machine", "command")}
        return cls(file=file, **known, entries={entry["name"]: entry for entry in content["entries"]})

    def names(self, *statuses: str) -> list[str]:
        """The entries that have one of these statuses."""
        return [name for name, entry in self.entries.items() if entry["status"] in statuses]

    @property
    def complete(self) -> bool:
        """Whether every entry has been tried."""
        return not self.names(RUNNING, WAITING)

    def expect(self, names: list[str]) -> None:
        """Bring the entries into this order; those that are new wait, and those of other names are forgotten."""
        self.entries = {name: self.entries.get(name, {"name": name, "status": WAITING}) for name in names}
        self.save()

    def put(self, name: str, status: str, call: str, **found: Any) -> None:
        """Note the state of an entry."""
        self.entries[name] = {"name": name, "status": status, "call": call, **found}
        if status == RUNNING:
            self.entries[name]["since"] = time.time()
        self.save()

    def save(self) -> None:
        """Write the file."""
        content = {
            "part": self.part,
            "title": self.title,
            "complete": self.complete,
            "failed": self.names(FAILED),
            "machine": self.machine,
            "command": self.command,
            "entries": list(self.entries.values()),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps(content, indent=1, default=str) + "\n")
