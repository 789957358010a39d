"""Would the tests notice? Plants the faults of benchmarks/mutants.yaml one at a time and runs the tests of that code.

python benchmarks/mutation.py                            # all of them: about half an hour on two cores
python benchmarks/mutation.py --only cardiff/data        # those of some files

A fault is caught if a test fails or takes too long; the exit code is 1 if fewer than 95% are caught. It works in a
temporary copy of the checkout, uncommitted changes included, and adds each verdict to --results, so it can be stopped
and started again: only what has changed since, in the code or its tests, is run anew. Without a fault the tests have
to pass, which is tried first. Entries that no longer fit the code are refused with exit code 2.

The list is by hand, not from mutmut or cosmic-ray: they plant thousands of faults, many of which change nothing that
matters, and the suite takes minutes. Each fault runs in a process forked from one that has the libraries imported.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
LIST = ROOT / "benchmarks/mutants.yaml"
CODE = ("cardiff", "schedulers", "pipelines")
CAUGHT, SURVIVED = "caught", "survived"
LIBRARIES = (
    *("accelerate", "datasets", "diffusers", "jsonargparse", "matplotlib.pyplot", "pytest", "scipy.stats"),
    *("sklearn.linear_model", "torch.utils.tensorboard", "torchmetrics.image.fid", "torchvision.models"),
    *("transformers.models.auto", "diffusers.pipelines.ddpm", "diffusers.schedulers", "diffusers.training_utils"),
)
"""What the project and its tests import; the fork of a process that has them starts in no time."""
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="true", PYTHONDONTWRITEBYTECODE="1")
sys.dont_write_bytecode = True  # a fault of the same size within a second would run from the bytecode before it


@dataclass(frozen=True)
class Fault:
    """One replacement in one file, and the tests that have to notice; file and replacement are None for no fault."""

    file: str | None
    old: str | None
    new: str | None
    tests: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """Changes with the fault, the file and its tests, as they were when it was first asked for."""
        files = [ROOT / test.split("::")[0] for test in self.tests]
        files += [ROOT / self.file] if self.file else [file for part in CODE for file in (ROOT / part).rglob("*.py")]
        texts = [(str(file.relative_to(ROOT)), file.read_text()) for file in sorted(files)]
        return hashlib.sha256(json.dumps([self.old, self.new, self.tests, texts]).encode()).hexdigest()[:16]

    def problem(self) -> str | None:
        """Why it cannot be planted."""
        missing = [name for name in (self.file, *self.tests) if not (ROOT / name.split("::")[0]).is_file()]
        if missing:
            return f"there is no {missing[0]}"
        text = (ROOT / self.file).read_text()
        if text.count(self.old) != 1:
            return f"the text is there {text.count(self.old)} times, not once"
        try:
            compile(text.replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            return f"the fault is no Python ({error.msg})"
        return "it changes nothing" if self.old == self.new else None


def read_list(only: list[str]) -> list[Fault]:
    """The faults in files whose path starts with one of `only`, or all.

    Raises:
        ValueError: Entries that cannot be planted, all of them.
    """
    faults = []
    for file, section in yaml.safe_load(LIST.read_text()).items():
        if not only or file.startswith(tuple(only)):
            for entry in section["faults"]:
                tests = tuple(entry.get("tests", section["tests"]))
                faults.append(Fault(file, entry["old"], entry["new"], tests))
    problems = [f"{fault.file}: {fault.old!r}: {found}" for fault in faults if (found := fault.problem())]
    if problems:
        raise ValueError(f"{LIST.name} has to be brought up to date:\n" + "\n".join(problems))
    if not faults:
        raise ValueError(f"{LIST.name} has no fault in {' or '.join(only)}.")
    return faults


def copy_checkout(folder: Path) -> Path:
    """Copies what git knows or would add."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_tests(copy: Path, tests: tuple[str, ...]) -> None:
    """Runs in the forked process and ends it with pytest's exit code."""
    os.setsid()  # so that what the tests launch can be ended with it
    log = os.open(copy.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    os.chdir(copy)
    sys.path[0] = str(copy)
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(copy.with_suffix(".tmp"))]
    os._exit(pytest.main([*options, *tests]))


@dataclass
class Running:
    """A fault that is planted in a copy."""

    fault: Fault
    copy: Path
    limit: float
    """Seconds."""

    def __post_init__(self):
        if self.fault.file:
            self.text = (self.copy / self.fault.file).read_text()
            (self.copy / self.fault.file).write_text(self.text.replace(self.fault.old, self.fault.new))
        self.started = time.monotonic()
        self.process = multiprocessing.get_context("fork").Process(
            target=run_tests, args=(self.copy, self.fault.tests)
        )
        self.process.start()

    @property
    def left(self) -> float:
        return max(0, self.started + self.limit - time.monotonic())

    def finish(self) -> dict | None:
        """Takes the fault out again and says what became of it, once the tests have ended or the time is up."""
        if self.process.exitcode is None and self.left:
            return None
        self.end()
        if self.fault.file:
            (self.copy / self.fault.file).write_text(self.text)
        fault, code = self.fault, self.process.exitcode
        result = {"key": fault.key, "file": fault.file, "old": fault.old, "new": fault.new}
        result["verdict"] = SURVIVED if code == 0 else CAUGHT
        result["seconds"] = round(time.monotonic() - self.started, 1)
        if code not in (0, 1, 2):  # 1: a test failed; 2: an import failed
            result["exit"] = code
        lines = self.copy.with_suffix(".log").read_text(errors="replace").splitlines()
        return {**result, "by": next((line for line in lines if line.startswith(("FAILED", "ERROR"))), None)}

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.join()


def run_all(faults: list[Fault], limits: dict, copies: list[Path], done: dict[str, dict], results: Path) -> None:
    """Runs what is not done, one in each copy at a time, and adds it to `done` and to the file.

    `limits` are in seconds, by the tests that are run.
    """
    waiting, running = [fault for fault in faults if fault.key not in done], []
    free, total, finished = list(copies), len(waiting), 0
    try:
        while waiting or running:
            while waiting and free:
                fault = waiting.pop(0)
                running.append(Running(fault, free.pop(), limits[fault.tests]))
            wait([one.process.sentinel for one in running], timeout=min(one.left for one in running))
            for one in list(running):
                if result := one.finish():
                    running.remove(one)
                    free.append(one.copy)
                    done[result["key"]] = result
                    with results.open("a") as file:
                        file.write(json.dumps(result, ensure_ascii=False) + "\n")
                    finished += 1
                    what = f"{one.fault.file}: {one.fault.old!r}" if one.fault.file else " ".join(one.fault.tests)
                    print(f"{finished}/{total} {result['verdict']} {what}", flush=True)
    finally:
        for one in running:
            one.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="PATH", help="files or folders, from the checkout's root"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "runs/mutation.jsonl", help="verdicts, a line each")
    parser.add_argument("--workers", type=int, default=2, help="processes, each of one thread (default 2)")
    options = parser.parse_args()
    faults = read_list(options.only)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    done = {result["key"]: result for result in map(json.loads, lines)}
    # Tests that failed without a fault are tried again, since it may have been the machine's.
    done = {key: result for key, result in done.items() if result["file"] or result["verdict"] == SURVIVED}
    for name in LIBRARIES:
        importlib.import_module(name)

    as_it_is = [Fault(None, None, None, tests) for tests in dict.fromkeys(fault.tests for fault in faults)]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        known = sum(fault.key in done for fault in (*as_it_is, *faults))  # by the files as they are copied now
        print(f"{len(as_it_is)} runs without a fault and {len(faults)} with one; {known} are known", flush=True)
        copies = [copy_checkout(Path(folder, f"copy{i}")) for i in range(options.workers)]
        run_all(as_it_is, {fault.tests: 600 for fault in as_it_is}, copies, done, options.results)
        failing = [done[fault.key] for fault in as_it_is if done[fault.key]["verdict"] != SURVIVED]
        if failing:
            told = "\n".join(f"{result['by'] or result}" for result in failing)
            raise ValueError(f"Without a fault the tests have to pass:\n{told}")
        limits = {fault.tests: 60 + 3 * done[fault.key]["seconds"] for fault in as_it_is}
        run_all(faults, limits, copies, done, options.results)

    counts, survivors = defaultdict(lambda: [0, 0]), []
    for fault in faults:
        caught = done[fault.key]["verdict"] == CAUGHT
        counts[fault.file][0] += 1
        counts[fault.file][1] += caught
        survivors += [] if caught else [fault]
    print(f"\n{'file':50} {'faults':>7} {'caught':>7}")
    for file, (all_of, caught) in sorted(counts.items()):
        print(f"{file:50} {all_of:7} {caught:7}")
    share = 1 - len(survivors) / len(faults)
    print(f"{'all':50} {len(faults):7} {len(faults) - len(survivors):7}  {share:.1%}\n")
    for fault in survivors:
        print(f"survived: {fault.file}\n  {fault.old!r}\n  {fault.new!r}")
    return int(share < 0.95)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
