"""Goes through the entries of the parts and notes each; started by `__main__`, again if it dies."""

import fnmatch
import json
import os
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout

import diffusers
import torch

from benchmarks.gpu import checks, drawing, models, steps
from benchmarks.gpu.options import PARTS, Options
from benchmarks.gpu.record import DONE, FAILED, RUNNING, SKIPPED, WAITING, Failed, Record, Skipped
from benchmarks.gpu.world import Entry, World, machine
from cardiff.errors import UserError

LOST = 70
CUDA_NEEDED, TOO_LONG = "needs CUDA", "a dry run does others like it"
"""Why an entry is skipped."""
MAKERS = {"a": checks.entries, "b": steps.entries, "c": drawing.entries, "d": models.cifar10, "e": models.larger}
PICTURES = {"b": steps.picture}
"""What is drawn from a part's record when the part ends; the other pictures are made by entries."""


def main(options: Options, deadlines: dict[str, float]) -> int:
    """Do what is left of the parts.

    Args:
        options: What to do.
        deadlines: Of the parts that an earlier worker of this call began.

    Returns:
        0, also if entries failed; 2 if nothing can be done here; LOST if the device cannot be used any more.
    """
    if not options.dry_run and not torch.cuda.is_available():
        print("error: torch finds no GPU: run this where there is one, or give --dry_run.", file=sys.stderr)
        return 2
    os.environ.setdefault("CARDIFF_CACHE", str(options.work / "cache"))
    os.environ.setdefault("HF_DATASETS_CACHE", str(options.work / "cache/datasets"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cpu" if options.dry_run else "cuda")
    if options.dry_run:
        torch.set_num_threads(1)
    here = machine(device, options.dry_run)
    try:
        records = {part: open_record(options, part, here) for part in options.parts}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for part, record in records.items():
        world = World(options, device, deadlines.get(part, time.time() + options.seconds(part)))
        if not go_through(MAKERS[part](world), record, world):
            return LOST
        if part in PICTURES:
            PICTURES[part](record, options.output / f"{part}.png")
    return 0


def go_through(entries: list[Entry], record: Record, world: World) -> bool:
    """Do the entries that are wanted until the time is over; returns whether the device can still be used."""
    record.expect([entry.name for entry in entries])
    for entry in entries:
        if time.time() > world.deadline:
            break
        if wanted(entry, record.entries[entry.name], world.options):
            do(entry, record, world)
            if world.cuda and not usable():
                return False
    return True


def open_record(options: Options, part: str, here: dict) -> Record:
    """The part's record, with what was found by earlier calls on the same card at the same commit.

    Raises:
        UserError: The earlier calls were on another card or at another commit, and --again is not given.
    """
    file = options.output / f"{part}.json"
    new = Record(file, part, PARTS[part][0], here, options.command)
    old = Record.load(file)
    if old is None:
        return new
    differing = [name for name in here if old.machine.get(name) != here[name]]
    if differing and not options.again:
        name = differing[0]
        raise UserError(
            f"{file} is of another {name} ({old.machine.get(name)}, now {here[name]}): give another --output, or "
            "--again to replace it."
        )
    new.entries = {} if differing else old.entries
    return new


def wanted(entry: Entry, known: dict, options: Options) -> bool:
    """Whether to do an entry: it is chosen, and neither done before nor tried in this call."""
    if options.only and not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in options.only):
        return False
    if known.get("call") == options.call and known["status"] != WAITING:
        return False
    return options.again or known["status"] not in (DONE, SKIPPED)


def do(entry: Entry, record: Record, world: World) -> None:
    """Do one entry and note how it ended."""
    call, start = world.options.call, time.perf_counter()
    record.put(entry.name, RUNNING, call, limit=entry.limit, grace=entry.grace, deadline=world.deadline)
    log = world.folder("log.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        if entry.needs_cuda and not world.cuda:
            raise Skipped(CUDA_NEEDED)
        if world.options.dry_run and not entry.dry:
            raise Skipped(TOO_LONG)
        with open(log, "a") as said, redirect_stdout(said), redirect_stderr(said):  # progress bars and notices
            status, found = DONE, {"values": entry.run()}
    except Skipped as reason:
        status, found = SKIPPED, {"why": f"skipped: {reason}"}
    except (Failed, UserError) as error:
        status, found = FAILED, {"error": str(error)}
    except (Exception, SystemExit) as error:
        status, found = FAILED, {"error": repr(error)[:2000], "traceback": traceback.format_exc()[-6000:]}
    seconds = round(time.perf_counter() - start, 2)
    record.put(entry.name, status, call, seconds=seconds, **found)
    remark = {FAILED: f": {found.get('error')}", SKIPPED: f": {found.get('why')}"}.get(status, "")
    print(f"{record.part}  {entry.name}: {status} ({seconds:.1f} s){remark}", flush=True)


def usable() -> bool:
    """Whether the GPU still answers; after some faults, every later call of the process fails."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # so that what an entry has started is ended on the way out


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main(Options.from_json(sys.argv[1]), json.loads(sys.argv[2])))
