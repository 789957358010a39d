"""Starts the worker and watches over it: an entry that hangs or takes the process down fails, and the next follows.

A fault on a GPU can leave its process unable to use the device any more, so what is left is done by a new one.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

from benchmarks.gpu.options import ROOT, Options, parse
from benchmarks.gpu.record import FAILED, RUNNING, WAITING, Record

WORKER = [sys.executable, "-m", "benchmarks.gpu.worker"]
LIMIT = 240.0
"""Seconds after which an entry counts as hanging, unless it has a limit of its own."""
GRACE = 60.0
"""Seconds that an entry may go on after the time of its part, so that a call of nine minutes ends within ten."""
LOST = 70
"""The worker's exit status if it can no longer use the device."""


def main(argv: list[str] | None = None) -> int:
    """Do the parts; returns 0, or 1 if an entry failed, or 2 if nothing could be done."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    options.command, options.call = shlex.join(["benchmarks/gpu.sh", *argv]), f"{time.time():.0f}.{os.getpid()}"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    deadlines: dict[str, float] = {}
    while True:
        worker = subprocess.Popen(
            [*WORKER, options.to_json(), json.dumps(deadlines)], cwd=ROOT, env=_environment(options)
        )
        try:
            reason = _watch(worker, options, deadlines)
        finally:
            _end(worker)
        if worker.returncode == 2:
            return 2
        if not _settle(options, reason) and worker.returncode != LOST:
            return 1 if _summary(options) or worker.returncode else 0


def _environment(options: Options) -> dict[str, str]:
    """Of the worker: the checkout's modules, and in a dry run one thread and no compilation."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path))
    if options.dry_run:
        environment |= {"ACCELERATE_USE_CPU": "true", "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return environment


def _watch(worker: subprocess.Popen, options: Options, deadlines: dict[str, float]) -> str:
    """Wait for the worker, or until an entry of it takes too long; the deadlines of parts that it began are noted.

    Returns:
        What the running entry failed of; "" if the time of its part is over.
    """
    while worker.poll() is None:
        time.sleep(0.5)
        for record, name in _running(options):
            entry, now = record.entries[name], time.time()
            deadlines[record.part] = entry["deadline"]
            limit = entry["limit"] or LIMIT
            if now - entry["since"] > limit:
                return f"no result after {limit:g} s"
            if now > entry["deadline"] + GRACE + entry["grace"]:
                return ""
    return f"its process ended with status {worker.returncode}"


def _end(worker: subprocess.Popen) -> None:
    if worker.poll() is None:
        worker.terminate()  # it ends what it has started
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _settle(options: Options, reason: str) -> bool:
    """Note that the entry of a dead worker failed, or, without a reason, that it waits; returns if there was one."""
    running = _running(options)
    for record, name in running:
        if reason:
            print(f"{record.part}  {name}: failed: {reason}", flush=True)
            record.put(name, FAILED, options.call, error=reason)
        else:
            record.put(name, WAITING, options.call)
    return bool(running)


def _running(options: Options) -> list[tuple[Record, str]]:
    """The entry that this call's worker is at."""
    records = filter(None, (Record.load(options.output / f"{part}.json") for part in options.parts))
    return [
        (record, name)
        for record in records
        for name in record.names(RUNNING)
        if record.entries[name]["call"] == options.call
    ]


def _summary(options: Options) -> int:
    """Print a line for each part; returns how many entries failed."""
    failed = 0
    for part in options.parts:
        record = Record.load(options.output / f"{part}.json")
        if record is None:
            print(f"{part}: nothing was recorded.")
            failed += 1
            continue
        failed += len(record.names(FAILED))
        waiting = len(record.names(WAITING))
        left = f"; {waiting} to do: run the same command again" if waiting else ""
        tried = f"{len(record.entries) - waiting} of {len(record.entries)} entries"
        print(f"{part}: {tried}, {len(record.names(FAILED))} failed{left}. See {record.file}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
