"""SIGKILL during a push and during a download: the repository has one model or another, never a mixture, and the same
command ends with what an undisturbed one does. The Hub is a server on the loopback address.
"""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.campaign.commands import Command, Outcome, Running
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "hub", 32
KINDS = ("publish", "sample from the Hub", "publish", "resume from the Hub") * 2
KINDS = (*KINDS[:-1], "push while training")
LOADED = "user/loaded"
CHECKPOINT = "user/checkpoint"


def serve() -> dict[str, str]:
    """Start the server in a process of its own; returns variables of the environment for all commands.

    To be called before huggingface_hub is imported, which reads them then.
    """
    from tests.support.hub_server import HubServer

    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        with HubServer() as server:
            os.write(writing, server.url.encode())
            os.close(writing)
            while os.getppid() == parent:
                signal.sigtimedwait([signal.SIGTERM], 1)
        os._exit(0)
    os.close(writing)
    url = os.read(reading, 100).decode()
    os.close(reading)
    return {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}


def _online(cache: Path) -> Callable[[], None]:
    """What a forked command does first: it may ask the Hub, and keeps what it is given in a cache of its own."""

    def before() -> None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE = False, str(cache)
        os.environ |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_writer", "HF_HOME": str(cache)}

    return before


def _run(command: Command, world: World, folder: Path, seconds: float | None = None) -> Outcome:
    running = Running(command, world.scratch, _online(folder / "hf"))
    outcome = running.wait() if seconds is None else running.kill_after(seconds)
    try:  # an upload that outlives its run
        os.killpg(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return outcome


def repository(name: str) -> dict[str, str]:
    """Fingerprints of the files of a repository, whatever it is called; empty if there is none."""
    address = os.environ["HF_ENDPOINT"]
    try:
        with urllib.request.urlopen(f"{address}/api/models/{name}/tree/main?recursive=true") as answer:
            files = [entry["path"] for entry in json.load(answer) if entry["type"] == "file"]
            # An empty repository has the first, and the second follows the seconds in run.json.
            files = [file for file in files if file not in (".gitattributes", "checksums.json")]
    except urllib.error.HTTPError:
        return {}
    found = {}
    for file in files:
        with urllib.request.urlopen(f"{address}/{name}/resolve/main/{file}") as answer:
            content = answer.read().replace(name.split("/")[1].encode(), b"NAME")
        found[file] = str(hash(re.sub(rb'"seconds": [\d.]+|, in [\d.]+ \w+ on ', b"", content)))
    return found


def _command(world: World, kind: str, folder: Path, name: str) -> Command:
    if kind == "publish":
        return world.command("publish", "--model", world.path("run"), "--hub_model_id", name)
    if kind == "push while training":
        return world.train(folder / "out").also("--push_to_hub", "--hub_model_id", name)
    if kind == "sample from the Hub":
        return world.sample(LOADED, folder / "out")
    return world.train(folder / "out", steps=20).also("--resume_from", CHECKPOINT)


def prepare(world: World) -> None:
    """Publish what is to be downloaded, and do everything once undisturbed."""
    folder = world.trial(NAME, -1)
    for command in (
        world.command("publish", "--model", world.path("run"), "--hub_model_id", LOADED),
        world.command(
            *("publish", "--model", world.path("run"), "--hub_model_id", "user/beside", "--hub_resume_id", CHECKPOINT)
        ),
    ):
        outcome = _run(command, world, folder)
        assert outcome.status == 0, outcome.errors
    for number, kind in enumerate(dict.fromkeys(KINDS)):
        aside = world.trial(f"{NAME}-undisturbed", number)
        outcome = _run(_command(world, kind, aside, f"user/undisturbed{number}"), world, aside)
        assert outcome.status == 0, f"{kind}: {outcome.errors}"
        world.seconds[f"hub {kind}"] = outcome.seconds
        world.references[f"hub {kind}"] = _result(kind, aside, f"user/undisturbed{number}")


def _result(kind: str, folder: Path, name: str) -> dict[str, str]:
    return repository(name) if kind in ("publish", "push while training") else fingerprint(folder / "out")


def trial(world: World, number: int, random: Random) -> Trial:
    """Kill a command that talks to the Hub, twice, look at the repository, and run it to its end."""
    kind = KINDS[number % len(KINDS)]
    folder, name = world.trial(NAME, number), f"user/trial{number}-{os.getpid()}-{random.randrange(10**6)}"
    command, expected, moments = _command(world, kind, folder, name), world.references[f"hub {kind}"], []
    for _ in range(2):
        moment = random.uniform(0.02, world.seconds[f"hub {kind}"])
        outcome = _run(command, world, folder, moment)
        moments += [f"{moment:.2f} s"] if outcome.status == -9 else []
        if kind == "publish" and repository(name) not in ({}, expected):
            problem = difference(repository(name), expected)
            return Trial(NAME, number, kind, "silent", str(command), f"half a model after the kill: {problem}")
    outcome = _run(command, world, folder)
    found = {
        key: value for key, value in _result(kind, folder, name).items() if "resume" not in kind or key in expected
    }
    verdict, detail = judge(outcome, difference(found, expected))
    if verdict == "identical":
        detail = f"killed after {' and '.join(moments) or 'its end'}"
    return Trial(NAME, number, kind, "unclear" if verdict == "refused" else verdict, str(command), detail)
