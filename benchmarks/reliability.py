"""What holds when commands are killed, disks are full, files damaged or hostile, and options wrong: a campaign that
anyone can repeat. docs/reliability.md says what is promised and has its figures.

    python benchmarks/reliability.py --output build/reliability
    python benchmarks/reliability.py --only kills,mutations --counts kills=4,mutations=40
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
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.campaign.trials import BAD, GOOD, SKIPPED, Trial, random_of  # noqa: E402 - its folder must be found first

PARTS = ("kills", "stops", "mutations", "full_disk", "read_only", "owners", "hub", "inputs", "hostile", "processes")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
ENVIRONMENT |= {"HF_HUB_OFFLINE": "1"}
"""Of all commands: one thread, no accelerator, nothing from the network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts with commas between")
    parser.add_argument("--counts", default="", help="trials of each part, or of some: kills=4,mutations=40")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=int, help="only the trial of this number")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed trials, or of --trial")
    parser.add_argument("--output", type=Path, default=ROOT / "build/reliability", help="folder of results")
    parser.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    given = parser.parse_args()
    given.only, given.counts = given.only.split(","), _counts(given.counts)
    unknown = [name for name in (*given.only, *given.counts) if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    work = given.work or Path(tempfile.mkdtemp(prefix="reliability-"))
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o755)  # another user works in it, too
    os.environ |= {**ENVIRONMENT, "HF_HOME": str(work / "hf"), "MPLCONFIGDIR": str(work / "matplotlib")}
    try:
        record = campaign(given, work)
    finally:
        if not given.keep and given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(table(record))
    sys.exit(bool(record["failures"]))


def _counts(text: str) -> dict[str, int]:
    if text.isdigit():
        return dict.fromkeys(PARTS, int(text))
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    return {name: int(number) for name, _, number in pairs}


def campaign(given: argparse.Namespace, work: Path) -> dict:
    """Try what has not been tried, and return the record of all parts that were asked for."""
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(result["part"], result["number"], result["seed"]) for result in results}
    if "hub" in given.only:
        from benchmarks.campaign.hub import serve

        os.environ |= serve()
    from benchmarks.campaign.commands import import_commands
    from benchmarks.campaign.world import World
    from cardiff.version import cardiff_version

    version = cardiff_version()
    import_commands()
    world = World(work / "world")
    world.make()
    for name in given.only:
        part = importlib.import_module(f"benchmarks.campaign.{name}")
        numbers = _numbers(part, given.counts.get(name)) if given.trial is None else [given.trial]
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
            results.append({**trial.to_dict(), "seed": given.seed, "version": version})
            if given.trial is None:
                with open(file, "a") as lines:
                    lines.write(json.dumps(results[-1]) + "\n")
            shown = trial.failed or given.trial is not None
            if shown:
                print(
                    f"{name} {number}: {trial.verdict}: {trial.what}\n  {trial.detail}\n  {trial.command}", flush=True
                )
            if not (given.keep and shown):
                shutil.rmtree(world.folder / "trials" / f"{name}-{number}", ignore_errors=True)
        if todo and hasattr(part, "clean"):
            part.clean(world)
    record = summary([result for result in results if result["part"] in given.only])
    (given.output / "report.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.output / "report.md").write_text(table(record) + "\n")
    return record


def _numbers(part: ModuleType, count: int | None) -> list[int]:
    """Numbers of the trials; of a part whose trials are a list, a few are taken from all of it."""
    if count is None or not getattr(part, "IS_LIST", False):
        return list(range(part.COUNT if count is None else count))
    return sorted({i * part.COUNT // count for i in range(count)})


def summary(results: list[dict]) -> dict:
    """What came out: trials by part and verdict, and all that did not hold, with the command that repeats it."""
    again = "python benchmarks/reliability.py --only {part} --seed {seed} --trial {number} --keep"
    return {
        "command": "python " + " ".join(sys.argv),
        "machine": f"{platform.system()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "versions": sorted({result["version"] for result in results}),
        "seconds": round(sum(result["seconds"] for result in results)),
        "counts": {
            part: dict(Counter(result["verdict"] for result in results if result["part"] == part)) for part in PARTS
        },
        "failures": [{**result, "repeat": again.format(**result)} for result in results if result["verdict"] in BAD],
    }


def table(record: dict) -> str:
    """Counts by part and verdict, and what did not hold, in Markdown."""
    found = {part: number for part, number in record["counts"].items() if number}
    verdicts = [v for v in (*GOOD, *SKIPPED, *BAD) if v in GOOD or any(v in number for number in found.values())]
    lines = ["| part | trials | " + " | ".join(verdicts) + " |", "|---|--:" + "|--:" * len(verdicts) + "|"]
    for part, number in found.items():
        cells = [str(number.get(verdict, 0)) for verdict in verdicts]
        lines.append(f"| {part} | {sum(number.values())} | " + " | ".join(cells) + " |")
    for failure in record["failures"]:
        lines += ["", f"- **{failure['verdict']}** {failure['what']}: {failure['detail']}", f"  `{failure['repeat']}`"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
