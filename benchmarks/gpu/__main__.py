"""Starts the worker and watches over it: an entry that hangs or takes the process down fails, and the next follows.

A fault on a GPU can leave its process unable to use the device any more, so what is left is done by a new one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time

from benchmarks.gpu.options import ROOT, Options, parse
from benchmarks.gpu.record import FAILED, RUNNING, WAITING, Record

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
    environment = dict(os.environ, TQDM_DISABLE="1", PYTHONPATH=_with_root(os.environ.get("PYTHONPATH")))
    if options.dry_run:
        environment |= {"ACCELERATE_USE_CPU": "true", "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    broken = False
    for part in options.parts:
        deadline = time.time() + options.seconds(part)
        while True:
            worker = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.worker", options.to_json(), part, str(deadline)],
                cwd=ROOT,
                env=environment,
            )
            try:
                reason = _watch(worker, options, part, deadline)
            finally:
                _end(worker)
            if worker.returncode == 2:
                return 2
            if not _fail_what_runs(options, part, reason) and worker.returncode != LOST:
                broken |= worker.returncode != 0 and reason != ""
                break
    return 1 if _summary(options) or broken else 0


def _watch(worker: subprocess.Popen, options: Options, part: str, deadline: float) -> str | None:
    """Wait for the worker; returns why it had to be ended, or died, while an entry was running."""
    file = options.output / f"{part}.json"
    while worker.poll() is None:
        time.sleep(0.5)
        record = Record.load(file)
        for name in record.names(RUNNING) if record else []:
            entry = record.entries[name]
            limit = entry.get("limit", LIMIT)
            if time.time() - entry["since"] > limit:
                return f"no result after {limit:.0f} s"
            if time.time() > deadline + GRACE + entry.get("grace", 0):
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


def _fail_what_runs(options: Options, part: str, reason: str | None) -> bool:
    """Note that the running entry failed, or that it waits if there is no reason; returns whether one was running."""
    record = Record.load(options.output / f"{part}.json")
    running = record.names(RUNNING) if record else []
    for name in running:
        if reason:
            print(f"{part}  {name}: failed: {reason}", flush=True)
            record.put(name, FAILED, options.call, error=reason)
        else:
            record.put(name, WAITING, options.call)
    return bool(running and reason)


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


def _with_root(path: str | None) -> str:
    return os.pathsep.join([str(ROOT), *([path] if path else [])])


if __name__ == "__main__":
    sys.exit(main())
