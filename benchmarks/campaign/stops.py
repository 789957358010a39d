"""Signals that ask a command to stop, at random moments: it ends in good order, says so with its exit status, and the
same command ends as if it had not been stopped.
"""

import re
import signal
from random import Random

from benchmarks.campaign.commands import Running
from benchmarks.campaign.trials import Trial, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "stops", 45
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KINDS = {"train": "run", "sample": "samples", "evaluate": "report", "compare": "comparison", "publish": "published"}
"""What each makes, under the name that it has in the world."""

OLDER = re.compile(r"checkpoints/(?!step-00000016/)")


def trial(world: World, number: int, random: Random) -> Trial:
    """Send a signal, look at the exit status, and run the command to its end."""
    kind, number_of_signal = list(KINDS)[number % len(KINDS)], SIGNALS[number // len(KINDS) % len(SIGNALS)]
    output = world.trial(NAME, number) / "out"
    command = {
        "train": lambda: world.train(output),
        "sample": lambda: world.sample(world.path("run"), output),
        "evaluate": lambda: world.evaluate("model", world.path("run"), output),
        "compare": lambda: world.compare(output),
        "publish": lambda: world.publish(world.path("run"), output),
    }[kind]()
    moment = random.uniform(0.1, world.seconds[KINDS[kind]])
    stopped = Running(command, world.scratch).kill_after(moment, number_of_signal)
    what = f"{kind} stopped by {number_of_signal.name} after {moment:.2f} s: exits {stopped.status}"
    # One that has not begun to listen ends by the signal itself.
    if stopped.traceback or stopped.hung or stopped.status not in (0, 128 + number_of_signal, -number_of_signal):
        verdict, detail = judge(stopped, None)
        return Trial(NAME, number, what, "unclear" if verdict == "refused" else verdict, str(command), detail)
    leftovers = [path.name for path in output.rglob(".*") if path.name.startswith((".writing-", ".removing-"))]
    if leftovers and stopped.status > 0:
        return Trial(NAME, number, what, "silent", str(command), f"left behind: {leftovers[:3]}")
    complete = stopped.status == 0 and kind == "publish"  # into an empty folder only
    outcome = stopped if complete else Running(command, world.scratch).wait()
    found, expected = fingerprint(output), world.references[KINDS[kind]]
    if kind == "train":  # which has a checkpoint more, of the step at which it was stopped
        found, expected = ({n: v for n, v in f.items() if not OLDER.match(n)} for f in (found, expected))
    verdict, detail = judge(outcome, difference(found, expected))
    return Trial(NAME, number, what, "unclear" if verdict == "refused" else verdict, str(command), detail)
