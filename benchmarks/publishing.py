"""What pushing to the Hub costs a training run: seconds of the same run without it, with a Hub on the loopback address
that takes everything, and with one that never answers.

    python benchmarks/publishing.py --rounds 3

The three take turns, so that what else the machine does falls on all of them. Prints a Markdown table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.hub_server import HubServer  # noqa: E402 - the project's root must be found first

STEPS, EVERY = 240, 40
KINDS = ("no push", "push", "push, silent Hub")


def train(kind: str, folder: Path) -> tuple[float, int]:
    """Seconds from the first step of the run to its last checkpoint, which is before it waits for the last upload; and
    how many models arrived on the Hub.
    """
    options = {"config": ROOT / "configs/digits_16_conditional.yaml", "output_dir": folder, "train.trackers": "[]"}
    options |= {"train.max_steps": STEPS, "train.checkpoint_every": EVERY, "train.sample_every": 0}
    if kind != KINDS[0]:
        options |= {"push_to_hub": "true", "hub_model_id": "user/run"}
    command = [sys.executable, str(ROOT / "train_conditional.py")]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    with HubServer() as server:
        if kind == KINDS[2]:
            server.fail("preupload", "hang", times=float("inf"))
        environment = {**os.environ, **server.environment(folder / "home"), "PYTHONUNBUFFERED": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
            for line in process.stdout:
                if line.startswith("Waiting for the upload") and kind == KINDS[2]:
                    process.kill()  # it is trained, and would wait for the silent Hub
        commits = [done for repository in server.repositories.values() for done in repository.branches["main"]]
    arrived = sum(done.message.startswith("Model of step") for done in commits)
    return json.loads((folder / "run.json").read_text())["seconds"], arrived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    rounds = parser.parse_args().rounds
    seconds, models = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as aside:
        for i in range(rounds):
            for kind in KINDS:
                taken, arrived = train(kind, Path(aside, f"{i}-{KINDS.index(kind)}"))
                seconds[kind].append(taken)
                models[kind].append(arrived)
                print(f"{kind}: {taken:.1f} s, {arrived} models", file=sys.stderr)
    print(f"| {STEPS} steps, {STEPS // EVERY} checkpoints | seconds | ratio, round by round | models on the Hub |")
    print("|---|---|---|---|")
    for kind, found in seconds.items():
        ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(found, seconds[KINDS[0]]))
        print(f"| {kind} | {statistics.median(found):.1f} | {ratios} | {', '.join(map(str, models[kind]))} |")


if __name__ == "__main__":
    main()
