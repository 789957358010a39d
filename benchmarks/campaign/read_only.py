"""Places that cannot be written: refused in one sentence as outputs, and as good as any other to read from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.campaign.commands import Command, run
from benchmarks.campaign.disk import Disk
from benchmarks.campaign.trials import Trial, copy, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME = "read_only"
NOBODY = 65534


@dataclass(frozen=True)
class Place:
    """A command whose place, in the folder `d` of a read-only disk, cannot be written; `o` is one that can."""

    what: str
    command: Callable[[World, Path, Path], Command]
    refused: bool
    result: str = "out"
    undisturbed: str = ""
    """Which result of the world it must equal."""


PLACES = [
    Place("train to it", lambda w, d, o: w.train(d / "new", cache=o / "cache"), True),
    Place("go on there", lambda w, d, o: w.train(d / "interrupted_run", cache=o / "cache"), True),
    Place("train a classifier to it", lambda w, d, o: w.train_classifier(d / "new", cache=o / "cache"), True),
    Place("sample to it", lambda w, d, o: w.sample(w.path("run"), d / "new"), True),
    Place("more samples there", lambda w, d, o: w.sample(w.path("run"), d / "samples", 30), True),
    Place("a grid to it", lambda w, d, o: w.grid(w.path("run"), d / "new.png"), True),
    Place("evaluate to it", lambda w, d, o: w.evaluate("model", w.path("run"), d / "new"), True),
    Place("compare to it", lambda w, d, o: w.compare(d / "new"), True),
    Place("compare there again", lambda w, d, o: w.compare(d / "comparison"), True),
    Place("publish to it", lambda w, d, o: w.publish(w.path("run"), d / "new"), True),
    Place(
        "export statistics to it",
        lambda w, d, o: w.evaluate("model", w.path("run"), o / "out", "--export_reference", d / "new.safetensors"),
        True,
    ),
    Place("build a store there", lambda w, d, o: w.train(o / "out", cache=d / "new"), True),
    Place("sample from it", lambda w, d, o: w.sample(d / "run", o / "out"), False, "out", "samples"),
    Place("a grid from it", lambda w, d, o: w.grid(d / "run", o / "grid.png"), False, "grid.png", "grid.png"),
    Place("evaluate from it", lambda w, d, o: w.evaluate("model", d / "run", o / "out"), False, "out", "report"),
    Place("publish from it", lambda w, d, o: w.publish(d / "run", o / "out"), False, "out", "published"),
    Place(
        "evaluate with its cache",
        lambda w, d, o: w.evaluate("model", w.path("run"), o / "out", cache=d / "cache"),
        False,
        "out",
        "report",
    ),
    Place(
        "compare with its cache", lambda w, d, o: w.compare(o / "out", cache=d / "cache"), False, "out", "comparison"
    ),
    Place("train with its cache", lambda w, d, o: w.train(o / "out", cache=d / "cache"), False, "out", "run"),
]
COUNT = 2 * len(PLACES)
IS_LIST = True


def trial(world: World, number: int, random: Random) -> Trial:
    """Run a command on a disk that is mounted read-only, or as a user who may not write there."""
    place, as_nobody = PLACES[number % len(PLACES)], number // len(PLACES) % 2 == 1
    if os.getuid():
        if not as_nobody:
            return Trial(NAME, number, place.what, "not permitted", detail="mounting a read-only disk needs root")
        protected = world.trial(NAME, number) / "protected"
    else:
        protected = Disk(world.folder / "disk").folder
        Disk(protected).empty()
    output = world.trial(f"{NAME}-output", number)
    names = ("run", "interrupted_run", "samples", "comparison", "cache")
    for name in names:
        copy(world.path(name), protected / name)
    if as_nobody:
        for path in (protected, *protected.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        output.chmod(0o777)
        for path in (hf := world.folder.parent / "hf", *hf.rglob("*")):  # of the datasets library, where it locks
            path.chmod(0o777)
    else:
        Disk(protected).protect()
    before = _become_nobody if as_nobody and not os.getuid() else None
    command = place.command(world, protected, output)
    outcome = run(command, world.scratch, before)
    same = "it was accepted"
    if not place.refused:
        same = difference(fingerprint(output / place.result), world.references[place.undisturbed])
    verdict, detail = judge(outcome, same)
    if verdict == "refused" and not place.refused:
        verdict = "unclear"
    if as_nobody:
        for path in (protected, *protected.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    what = f"{place.what}, {'which others own' if as_nobody else 'mounted read-only'}"
    return Trial(NAME, number, what, verdict, str(command), detail)


def _become_nobody() -> None:
    # Git tells only those who trust its folder which version this is, and reports name it.
    os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def clean(world: World) -> None:
    """Take the disk away."""
    if not os.getuid():
        Disk(world.folder / "disk").unmount()
