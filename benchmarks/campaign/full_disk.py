"""A disk with room for a random part of what a command writes: one sentence, or training that goes on with a warning;
and the same command, once there is room, ends as if there had been room from the start.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.campaign.commands import Command, Outcome, Running
from benchmarks.campaign.disk import Disk, used
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, MOMENTS = "full_disk", 20
COMMANDS: dict[str, tuple[Callable[[World, Path], Command], str]] = {
    "train": (lambda w, d: w.train(d / "out", cache=d / "cache"), "out"),
    "train-classifier": (lambda w, d: w.train_classifier(d / "out", cache=d / "cache"), "out"),
    "sample": (lambda w, d: w.sample(w.path("run"), d / "out"), "out"),
    "grid": (lambda w, d: w.grid(w.path("run"), d / "out.png"), "out.png"),
    "evaluate": (
        lambda w, d: w.evaluate(
            "model", w.path("run"), d / "out", "--export_reference", d / "out/s.safetensors", cache=d / "cache"
        ),
        "out",
    ),
    "compare": (lambda w, d: w.compare(d / "out", cache=d / "cache"), "out"),
    "publish": (lambda w, d: w.publish(w.path("run"), d / "out"), "out"),
}
COUNT = MOMENTS * len(COMMANDS)
_needed: dict[str, int] = {}
NEWEST = {"train": "checkpoints/step-00000016", "train-classifier": "checkpoints/step-00000008"}


def trial(world: World, number: int, random: Random) -> Trial:
    """Run a command on a nearly full disk, and again with room."""
    kind = list(COMMANDS)[number % len(COMMANDS)]
    command_of, name = COMMANDS[kind]
    try:
        disk = Disk(world.folder / "disk")
    except PermissionError as error:
        return Trial(NAME, number, kind, "not permitted", detail=str(error))
    command, result = command_of(world, disk.folder), disk.folder / name
    if kind not in _needed:
        disk.empty()
        outcome = world.run(command)
        assert outcome.status == 0, outcome.errors
        world.references[f"{NAME} {kind}"], _needed[kind] = _found(result), used(disk.folder)
    disk.empty()
    if kind in NEWEST and number // len(COMMANDS) % 2:
        what, outcome = _full_for_a_while(kind, command, disk, world, random)
    else:
        room = random.randrange(int(_needed[kind] * 1.2))
        disk.fill(room)
        what = f"{kind} with room for {room:,} of {_needed[kind]:,} bytes"
        outcome = world.run(command)
        disk.make_room()
    verdict, detail = judge(outcome, None)
    if verdict not in ("refused", "identical"):
        return Trial(NAME, number, what, verdict, str(command), detail)
    warned = "Warning: " in outcome.output + outcome.errors
    complete = verdict == "identical" and kind == "publish"  # into an empty folder only
    again = outcome if complete else world.run(command)
    found, expected = _found(result), world.references[f"{NAME} {kind}"]
    if warned and kind in NEWEST:  # what could not be written on the way is missing, and was said to be
        found, expected = ({n: v for n, v in f.items() if _lasting(kind, n)} for f in (found, expected))
    after, problem = judge(again, difference(found, expected))
    if after != "identical":
        return Trial(NAME, number, what, after, str(command), f"with room again: {problem}; before: {detail}")
    leftovers = [path.name for path in disk.folder.rglob(".*") if path.name.startswith((".writing-", ".removing-"))]
    if leftovers:
        return Trial(NAME, number, what, "silent", str(command), f"left behind: {leftovers[:3]}")
    return Trial(NAME, number, what, "went on" if warned and verdict == "identical" else verdict, str(command), detail)


def _found(result: Path) -> dict[str, str]:
    """The fingerprint of a result, and the losses of a run, whose entries wait for room."""
    log = result / "logs/metrics.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    return {**fingerprint(result), **({"losses": str(losses)} if losses else {})}


def _full_for_a_while(kind: str, command: Command, disk: Disk, world: World, random: Random) -> tuple[str, Outcome]:
    """A training run whose disk somebody else fills, and empties again while it trains."""
    seconds = world.seconds[{"train": "run", "train-classifier": "classifier"}[kind]]
    start, length = random.uniform(0.1, 0.7) * seconds, random.uniform(0.1, 0.4) * seconds
    running = Running(command, world.scratch)
    time.sleep(start)
    disk.fill(0)
    time.sleep(length)
    disk.make_room()
    return f"{kind} with no room from {start:.2f} to {start + length:.2f} s", running.wait()


def _lasting(kind: str, name: str) -> bool:
    """Whether a file of a run is there at the end whatever happened on the way."""
    return name.startswith(
        (NEWEST[kind], "losses", "unet/", "classifier/", "scheduler/", "model_index.json", "run.json")
    )


def clean(world: World) -> None:
    """Take the disk away."""
    try:
        Disk(world.folder / "disk").unmount()
    except PermissionError:
        pass
