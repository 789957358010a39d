"""benchmarks/gpu.sh: its dry run, what it does about failures, and that its checks can fail."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu import __main__ as watcher
from benchmarks.gpu import checks, data, worker
from benchmarks.gpu.options import Options, parse
from benchmarks.gpu.record import DONE, FAILED, RUNNING, SKIPPED, WAITING, Failed, Record
from benchmarks.gpu.world import Entry, World
from cardiff.errors import UserError
from tests.conftest import ROOT


def start(*options, check=True):
    done = subprocess.run([ROOT / "benchmarks/gpu.sh", *map(str, options)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done


def entries(folder, part):
    content = json.loads((folder / f"{part}.json").read_text())
    return content, {entry["name"]: entry for entry in content["entries"]}


def world(tmp_path, **options):
    given = Options(tmp_path / "out", tmp_path / "work", ["a"], dry_run=True, call="now", **options)
    return World(given, torch.device("cpu"), time.time() + 1000)


def test_help_and_refusals(tmp_path):
    assert "--dry_run" in start("--help").stdout
    wrong = start("--minutes", "0", "--dry_run", check=False)
    assert wrong.returncode == 2 and "--minutes is 0" in wrong.stderr
    if not torch.cuda.is_available():
        here = start("--part", "e", "--output", tmp_path / "out", "--work", tmp_path / "work", check=False)
        assert here.returncode == 2 and here.stderr == (
            "error: torch finds no GPU: run this where there is one, or give --dry_run.\n"
        )


def test_some_entries_and_going_on(tmp_path):
    where = ["--output", tmp_path / "out", "--work", tmp_path / "work", "--dry_run"]
    chosen = [
        "--only",
        "resume: cifar10_32_classifier*",
        "--only",
        "cifar10_32_conditional: float32*",
        "--only",
        "grid",
    ]
    start(*where, *chosen, "--part", "a", "--part", "b")
    record, found = entries(tmp_path / "out", "a")
    ended = {name: entry["status"] for name, entry in found.items() if entry["status"] != WAITING}
    assert len(ended) == 3 and not record["failed"] and not record["complete"]
    assert all(status == (SKIPPED if name.endswith("fp16") else DONE) for name, status in ended.items())
    assert found["resume: cifar10_32_classifier, fp16"]["why"] == "skipped: needs CUDA"
    assert set(found["resume: cifar10_32_classifier, no"]["values"]["differences"].values()) == {0.0}
    assert record["machine"]["device"].startswith("CPU") and "gpu.sh --output" in record["command"]
    assert {"commit", "versions"} <= record["machine"].keys()
    _, timed = entries(tmp_path / "out", "b")
    values = timed["cifar10_32_conditional: float32, eager, channels-last"]["values"]
    assert values["images_per_second"] > 0 and values["images"] == "generated: the dry run"
    assert_drawn(tmp_path / "out/b.png")


@pytest.mark.slow
def test_the_whole_dry_run(tmp_path):
    start("--output", tmp_path / "out", "--work", tmp_path / "work", "--dry_run", "--minutes", "9")
    for part in "abcde":
        record, found = entries(tmp_path / "out", part)
        assert record["complete"] and not record["failed"]
        reasons = {entry["why"] for entry in found.values() if entry["status"] == SKIPPED}
        assert reasons <= {"skipped: needs CUDA", "skipped: a dry run does others like it"}
    for picture in ("b.png", "d.png", "e.png"):
        assert_drawn(tmp_path / "out" / picture)
    _, found = entries(tmp_path / "out", "d")
    assert found["training"]["values"]["data"] == "digits" and found["distance to the data"]["values"]["network"]


def assert_drawn(picture):
    assert np.asarray(Image.open(picture).convert("L")).std() > 10


def test_a_failure_is_noted_and_the_next_entry_follows(tmp_path):
    here = world(tmp_path)
    record = Record(tmp_path / "a.json", "a", "title", {}, "command")

    def fail():
        raise Failed("It is wrong.")

    def crash():
        raise KeyError("absent")

    made = [Entry("bad", fail), Entry("bug", crash), Entry("good", dict), Entry("card", dict, needs_cuda=True)]
    assert worker.go_through(made, record, here)
    assert {name: entry["status"] for name, entry in Record.load(record.file).entries.items()} == {
        "bad": FAILED,
        "bug": FAILED,
        "good": DONE,
        "card": SKIPPED,
    }
    assert record.entries["bad"]["error"] == "It is wrong." and "KeyError" in record.entries["bug"]["traceback"]
    # What failed is tried again by the next call only, what is done only with --again.
    again = Options(Path(), Path(), ["a"], call="later")
    assert [e.name for e in made if worker.wanted(e, record.entries[e.name], here.options)] == []
    assert [e.name for e in made if worker.wanted(e, record.entries[e.name], again)] == ["bad", "bug"]
    again.again, again.only = True, ["g*"]
    assert [e.name for e in made if worker.wanted(e, record.entries[e.name], again)] == ["good"]


@pytest.mark.parametrize(
    ("body", "limit", "grace", "status"),
    [("os._exit(9)", 60, 60, FAILED), ("time.sleep(60)", 0.2, 60, FAILED), ("time.sleep(60)", 60, -1000, WAITING)],
)
def test_a_worker_that_dies_hangs_or_runs_out_of_time(tmp_path, monkeypatch, body, limit, grace, status):
    options = Options(tmp_path, tmp_path, ["a"], call="now")
    Record(tmp_path / "a.json", "a", "title", {}, "command").put(
        "entry", RUNNING, "now", limit=limit, grace=grace, deadline=time.time()
    )
    process, deadlines = subprocess.Popen([sys.executable, "-c", f"import os, time; {body}"]), {}
    reason = watcher._watch(process, options, deadlines)
    watcher._end(process)
    assert watcher._settle(options, reason) and not watcher._settle(options, reason)
    assert Record.load(tmp_path / "a.json").entries["entry"]["status"] == status
    assert bool(reason) == (status == FAILED)


def test_results_of_another_card_are_not_mixed(tmp_path):
    options = Options(tmp_path, tmp_path, ["a"])
    Record(tmp_path / "a.json", "a", "title", {"device": "A100"}, "command").put("x", DONE, "before")
    assert worker.open_record(options, "a", {"device": "A100"}).entries
    with pytest.raises(UserError, match="is of another device .A100, now H100.*--again"):
        worker.open_record(options, "a", {"device": "H100"})
    options.again = True
    assert not worker.open_record(options, "a", {"device": "H100"}).entries


def test_the_data_set_is_chosen_and_the_choice_explained(tmp_path):
    assert data.first_at_hand(["cifar10", "cars32"], [tmp_path], 32).name == "digits"
    (tmp_path / "cars64").mkdir()
    (tmp_path / "cars64/cars32.parquet").touch()
    found = data.first_at_hand(["cifar10", "cars32"], [tmp_path], 32)
    assert found.name == "cars32" and found.why == f"cars32, since cifar10 are not in any of {tmp_path}"


def test_options_travel_to_the_worker(tmp_path):
    options = parse(["--part", "e", "--part", "b", "--minutes", "2", "--data", str(tmp_path)])
    assert options.parts == ["b", "e"] and options.seconds("b") == 120 and options.data[0] == tmp_path
    assert Options.from_json(options.to_json()) == options


def test_a_resumed_run_that_differs_is_noticed(tmp_path, monkeypatch):
    state = checks.state
    calls = []

    def wrong(trainer):
        found = state(trainer)
        calls.append(trainer)
        if len(calls) == 2:
            found["exp_avg"] = {name: -value for name, value in found["exp_avg"].items()}
        return found

    monkeypatch.setattr(checks, "state", wrong)
    with pytest.raises(Failed, match="exp_avg of the resumed run differ by 2"):
        checks.resume(world(tmp_path), "digits_16_conditional", "no", {})
    nothing = {"a": torch.zeros(2)}
    assert np.isnan(checks.relative_difference(nothing, nothing))


def test_what_needs_cuda_runs_with_its_calls_replaced(tmp_path, monkeypatch):
    """The lines of the checks, on the CPU: the debug mode warns, as torch does, wherever the network is called."""
    mode = ["default"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda wanted: mode.__setitem__(0, wanted))
    here = world(tmp_path)
    assert checks.step_without_waiting(here, "digits_16_conditional", "no", 2) == {"steps": 2}
    assert mode == ["default"]
    assert checks.same_images(here, "dpm")["largest_difference"] == 0
    assert checks.sampling_waits(here, "ddpm")["waits_per_step"] == 0
    conv = torch.nn.Conv2d.forward

    def waiting(self, x):
        if mode[0] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return conv(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", waiting)
    with pytest.raises(Failed, match="The network waits for the device"):
        checks.sampling_waits(here, "ddpm")
