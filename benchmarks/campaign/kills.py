"""SIGKILL at random moments of training and sampling: resumed, both end as if nothing had happened."""

from pathlib import Path
from random import Random

from benchmarks.campaign.commands import TIMEOUT, Command, Running
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "kills", 46
"""Of which every fourth is of sampling: 52 kills of training and 16 of sampling, as far as they hit."""
KILLS = 2
"""In each trial."""


def _command(world: World, kind: str, output: Path) -> Command:
    if kind == "training":
        return world.train(output, steps=18, every=3)
    return world.sample(world.path("run"), output, count=60, batch=3)


def prepare(world: World) -> None:
    """Run both to their end."""
    for kind in ("training", "sampling"):
        output = world.trial(NAME, -1) / kind
        outcome = world.run(_command(world, kind, output))
        assert outcome.status == 0, outcome.errors
        world.references[f"kills {kind}"], world.seconds[f"kills {kind}"] = fingerprint(output), outcome.seconds


def trial(world: World, number: int, random: Random) -> Trial:
    """Kill a command twice, run it to its end, and compare what it leaves."""
    kind = "sampling" if number % 4 == 3 else "training"
    output = world.trial(NAME, number) / "output"
    command, moments = _command(world, kind, output), []
    for _ in range(KILLS):
        moment = random.uniform(0.02, world.seconds[f"kills {kind}"])
        outcome = Running(command, world.scratch).kill_after(moment)
        if outcome.status not in (0, -9) or outcome.traceback:
            return Trial(NAME, number, kind, *_bad(judge(outcome, None)), command=str(command))
        moments += [f"{moment:.2f} s"] if outcome.status == -9 else []
    outcome = Running(command, world.scratch).wait(TIMEOUT)
    same = difference(fingerprint(output), world.references[f"kills {kind}"])
    verdict, detail = judge(outcome, same)
    if verdict == "identical":
        detail = f"killed after {' and '.join(moments) or 'its end'}"
    if verdict == "refused":
        verdict = "unclear"  # the same command goes on, always
    return Trial(NAME, number, kind, verdict, str(command), detail)


def _bad(judged: tuple[str, str]) -> tuple[str, str]:
    return ("unclear" if judged[0] == "refused" else judged[0]), judged[1]
