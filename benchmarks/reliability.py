"""What holds when commands are killed, disks are full, files damaged or hostile, and options wrong: a campaign that
anyone can repeat. docs/reliability.md says what is promised and has its figures.

    python benchmarks/reliability.py --output build/reliability
    python benchmarks/reliability.py --only kills,mutations --counts 5
    python benchmarks/reliability.py --only mutations --seed 0 --trial 17 --keep

Every trial follows from the seed, its part and its number alone; the third line repeats one and keeps its folder. What
is in results.jsonl of the output folder is not tried again. Linux; a part of it needs to be root and says so.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
# Before anything is imported: one thread, no accelerator, nothing from the network.
os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}

PARTS = ("kills", "mutations", "full_disk", "read_only", "owners", "hub", "inputs", "hostile", "processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts with commas between")
    parser.add_argument("--counts", type=int, help="trials of each part (default: those of docs/reliability.md)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=int, help="only the trial of this number")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed trials, or of --trial")
    parser.add_argument("--output", type=Path, default=ROOT / "build/reliability", help="folder of results")
    parser.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    given = parser.parse_args()
    unknown = set(given.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--only names {sorted(unknown)[0]!r}: choose from {', '.join(PARTS)}")
    work = given.work or Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        results = campaign(given, work)
    finally:
        if not given.keep and given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(table(results))
    sys.exit(any(result["verdict"] not in GOOD for result in results))


def campaign(given: argparse.Namespace, work: Path) -> list[dict]:
    """Try what has not been tried, and return all results of the parts that were asked for."""
    from campaign.commands import import_commands
    from campaign.trials import Trial, random_of
    from campaign.world import World

    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(result["part"], result["number"], result["seed"]) for result in results}
    os.environ |= {"HF_HOME": str(work / "hf"), "MPLCONFIGDIR": str(work / "matplotlib")}
    import_commands()
    world = World(work / "world")
    world.make()
    for name in given.only.split(","):
        part = importlib.import_module(f"campaign.{name}")
        numbers = range(given.counts or part.COUNT) if given.trial is None else [given.trial]
        todo = [n for n in numbers if (name, n, given.seed) not in known or given.trial is not None]
        if todo and hasattr(part, "prepare"):
            part.prepare(world)
        for number in todo:
            started = time.monotonic()
            try:
                trial = part.trial(world, number, random_of(given.seed, name, number))
            except Exception as error:  # of the campaign; the next trial may tell more
                trial = Trial(name, number, "", "broken", detail=repr(error))
            trial.seconds = round(time.monotonic() - started, 2)
            result = {**trial.to_dict(), "seed": given.seed}
            results.append(result)
            if given.trial is None:
                with open(file, "a") as lines:
                    lines.write(json.dumps(result) + "\n")
            if trial.failed or given.trial is not None:
                print(f"{name} {number}: {trial.verdict}: {trial.what}\n  {trial.detail}\n  {trial.command}", flush=True)
            if not given.keep or not (trial.failed or given.trial is not None):
                shutil.rmtree(world.folder / "trials" / f"{name}-{number}", ignore_errors=True)
        if todo and hasattr(part, "clean"):
            part.clean(world)
    asked = [result for result in results if result["part"] in given.only.split(",")]
    record = {"machine": machine(), "seed": given.seed, "counts": counts(asked), "failures": failures(asked)}
    (given.output / "report.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.output / "report.md").write_text(table(asked) + "\n")
    return asked


def machine() -> dict:
    """What it ran on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


def counts(results: list[dict]) -> dict[str, dict[str, int]]:
    """Trials by part and verdict."""
    return {part: dict(Counter(r["verdict"] for r in results if r["part"] == part)) for part in PARTS}


def failures(results: list[dict]) -> list[dict]:
    """What did not hold, each with the command that repeats it."""
    return [
        {**result, "repeat": f"python benchmarks/reliability.py --only {result['part']} --seed {result['seed']} "
         f"--trial {result['number']} --keep"}
        for result in results
        if result["verdict"] not in GOOD
    ]


def table(results: list[dict]) -> str:
    """Counts by part and verdict, and the failures, in Markdown."""
    found = {part: number for part, number in counts(results).items() if number}
    verdicts = [verdict for verdict in (*GOOD, *BAD) if any(verdict in number for number in found.values())]
    lines = ["| part | trials | " + " | ".join(verdicts) + " |", "|---" * (len(verdicts) + 2) + "|"]
    for part, number in found.items():
        cells = [str(number.get(verdict, 0)) for verdict in verdicts]
        lines.append(f"| {part} | {sum(number.values())} | " + " | ".join(cells) + " |")
    for failure in failures(results):
        lines += ["", f"- **{failure['verdict']}** {failure['what']}: {failure['detail']}", f"  `{failure['repeat']}`"]
    return "\n".join(lines)


from campaign.trials import BAD, GOOD  # noqa: E402 - the variables of the environment come first

if __name__ == "__main__":
    main()
