"""Two commands at once in one folder, or with one cache: one owns it and is undisturbed, the other says who has it."""

import time
from random import Random

from benchmarks.campaign.commands import Running
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "owners", 25
KINDS = ("train", "train with another seed", "sample", "compare", "one cache")
OTHER_SEED = ("--train.seed", 5)


def prepare(world: World) -> None:
    """Train once with the other seed."""
    output = world.trial(NAME, -1) / "out"
    outcome = world.run(world.train(output).also(*OTHER_SEED))
    assert outcome.status == 0, outcome.errors
    world.references["another seed"] = fingerprint(output)


def trial(world: World, number: int, random: Random) -> Trial:
    """Start a command, and a second one a random moment later."""
    kind = KINDS[number % len(KINDS)]
    folder = world.trial(NAME, number)
    output = folder / "out"
    first = second = {
        "train": lambda: world.train(output),
        "train with another seed": lambda: world.train(output),
        "sample": lambda: world.sample(world.path("run"), output),
        "compare": lambda: world.compare(output),
        "one cache": lambda: world.train(output, cache=folder / "cache"),
    }[kind]()
    if kind == "train with another seed":
        second = second.also(*OTHER_SEED)
    elif kind == "one cache":
        second = world.train(folder / "other", cache=folder / "cache")
    reference = {"sample": "samples", "compare": "comparison"}.get(kind, "run")
    running = Running(first, world.scratch)
    time.sleep(random.uniform(0, world.seconds[reference]) * random.random())
    both = running, Running(second, world.scratch)
    outcomes = [one.wait() for one in both]
    judged = [judge(outcome, None) for outcome in outcomes]
    what = f"{kind}: exits {outcomes[0].status} and {outcomes[1].status}"
    refused = [detail for verdict, detail in judged if verdict == "refused"]
    for verdict, detail in judged:
        if verdict not in ("refused", "identical"):
            return Trial(NAME, number, what, verdict, str(second), detail)
    if kind == "train with another seed" and judged[0][0] == "refused":  # the second was quicker
        reference = "another seed"
    problem = difference(fingerprint(output), world.references[reference])
    if kind == "one cache":
        problem = problem or difference(fingerprint(folder / "other"), world.references[reference])
        problem = problem or next((f"refused: {detail}" for detail in refused), None)
    elif len(refused) == 2:
        problem = f"both were refused: {refused[0]}"
    elif refused and "in use" not in refused[0]:
        problem = f"refused for another reason: {refused[0]}"
    if problem is not None:
        return Trial(NAME, number, what, "silent", str(second), problem)
    return Trial(NAME, number, what, "refused" if refused else "identical", str(second), " ".join(refused))
