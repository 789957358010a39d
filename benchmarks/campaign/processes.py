"""Training by two processes, one of which is killed: the other ends, and the same command resumes and is identical."""

import signal
import socket
import time
from random import Random

from benchmarks.campaign.commands import Command, Outcome, Running
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "processes", 12
PATIENCE = 60.0
"""Seconds in which the other must end."""


def _launch(command: Command, world: World) -> list[Running]:
    """The two processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{**command.environment, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [Running(Command(command.name, command.arguments, environment), world.scratch) for environment in ranks]


def _finish(command: Command, world: World) -> list[Outcome]:
    return [running.wait() for running in _launch(command, world)]


def prepare(world: World) -> None:
    """Train with two processes, undisturbed."""
    output = world.trial(NAME, -1) / "out"
    outcomes = _finish(world.train(output), world)
    assert all(outcome.status == 0 for outcome in outcomes), outcomes[0].errors + outcomes[1].errors
    world.references[NAME], world.seconds[NAME] = fingerprint(output), outcomes[0].seconds


def trial(world: World, number: int, random: Random) -> Trial:
    """Kill one of the processes, wait for the other, and run the command again.

    Every other trial has a launcher, which sends the other process SIGTERM and, half a minute later, SIGKILL, as
    torchrun does. Without one, and while the processes do not know each other yet, torch waits for half an hour.
    """
    output, rank, launcher = world.trial(NAME, number) / "out", random.randrange(2), number % 2 == 1
    command, seconds = world.train(output), world.seconds[NAME]
    moment = random.uniform(0.02 if launcher else seconds / 2, seconds)
    running = _launch(command, world)
    running[rank].kill_after(moment)
    since = time.monotonic()
    other = running[1 - rank]
    if launcher:
        outcome = other.kill_after(since - other.started + 0.1, signal.SIGTERM, patience=30)
    else:
        outcome = other.wait(since - other.started + PATIENCE)
    waited = time.monotonic() - since
    what = f"process {rank} killed after {moment:.2f} s, {'with' if launcher else 'without'} a launcher"
    if outcome.hung and not launcher:
        return Trial(NAME, number, what, "hung", str(command), f"the other still ran {PATIENCE:g} s later")
    again = _finish(command, world)
    verdict, detail = judge(again[0], difference(fingerprint(output), world.references[NAME]))
    if again[1].status and verdict == "identical":
        verdict, detail = judge(again[1], None)
    if verdict == "identical":
        detail = f"the other ended {waited:.1f} s later with status {outcome.status}"
    return Trial(NAME, number, what, "unclear" if verdict == "refused" else verdict, str(command), detail)
