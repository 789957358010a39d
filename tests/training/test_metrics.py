"""The log of a run: what is averaged, what is forgotten when steps are made again, and how fast training is called."""

import json
import math

import pytest
import torch
from accelerate import Accelerator

from cardiff.training import metrics as logs
from cardiff.training.metrics import LossTotals, RunLog


def test_totals_are_averages_since_the_last_reading():
    accelerator, totals = Accelerator(cpu=True), LossTotals("cpu")
    totals.add(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 100, 900]), 1000)
    totals.add(torch.tensor([3.0]), torch.tensor([999]), 1000)
    totals.grad_norm = torch.tensor(0.5)
    values, first_bad = totals.read(accelerator)
    assert values["loss"] == pytest.approx(12 / 4) and values["grad_norm"] == 0.5 and math.isinf(first_bad)
    totals.add(torch.tensor([10.0]), torch.tensor([0]), 1000)
    assert totals.read(accelerator)[0]["loss"] == 10
    assert totals.read(accelerator)[0]["loss"] == 0  # of no images


def test_quarters_begin_at_their_first_timestep():
    """The first is of the least noise; a quarter without an image is left out."""
    accelerator, totals = Accelerator(cpu=True), LossTotals("cpu")
    timesteps = torch.tensor([0, 249, 250, 499, 500, 750, 999])
    totals.add(torch.tensor([1.0, 3.0, 4.0, 6.0, 8.0, 16.0, 20.0]), timesteps, 1000)
    values, _ = totals.read(accelerator)
    quarters = {name: value for name, value in values.items() if name.startswith("loss_q")}
    assert quarters == {"loss_q1": 2.0, "loss_q2": 5.0, "loss_q3": 8.0, "loss_q4": 18.0}
    totals.add(torch.tensor([7.0]), torch.tensor([749]), 1000)
    values, _ = totals.read(accelerator)
    assert {name for name in values if name.startswith("loss_q")} == {"loss_q3"}


def test_the_first_bad_step_is_kept():
    accelerator, totals = Accelerator(cpu=True), LossTotals("cpu")
    for step, value in ((3, 1.0), (4, math.nan), (5, 2.0), (6, math.inf)):
        totals.watch(torch.tensor([0.0, value]), step)
    assert totals.read(accelerator)[1] == 4


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    """A norm in fp16 is infinite whenever the scale of the loss was too large, and JSON has no infinity."""
    log = run_log(tmp_path)
    log.record(3, {"grad_norm": math.inf, "loss": 0.5, "other": math.nan})
    line = log.file.read_text()
    refuse = lambda word: pytest.fail(f"{word} is not JSON")  # noqa: E731
    assert json.loads(line, parse_constant=refuse) == {"step": 3, "grad_norm": None, "loss": 0.5, "other": None}
    assert log.has(3, "grad_norm")
    log.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    times = [100.0]
    monkeypatch.setattr(logs.time, "perf_counter", lambda: times[0])
    return times


def run_log(folder, start_step=0, config=None) -> RunLog:
    return RunLog(Accelerator(cpu=True), folder, start_step, 10, config or {})


def test_images_per_second_leave_pauses_out(tmp_path, clock):
    log = run_log(tmp_path)
    clock[0] += 4
    with log.pause("saving"):
        clock[0] += 90
    clock[0] += 1
    log.write(2, {"loss": 0.5}, 20)
    clock[0] += 10
    log.write(3, {"loss": 0.25}, 20)
    log.close()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entries == [
        {"step": 2, "loss": 0.5, "images_per_second": 4.0},
        {"step": 3, "loss": 0.25, "images_per_second": 2.0},
    ]


def test_steps_that_are_made_again_are_forgotten(tmp_path):
    """Those after the last checkpoint, and a line that was cut short; that of the checkpoint's own step stays."""
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 5, "lo']))
    run_log(tmp_path, start_step=3).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:3]


def test_trackers_get_flat_names_and_plain_values(tmp_path):
    config = {"data": {"path": "cats", "box": {"margin": 0.1}}, "unet": {"channels": [1, 2]}, "seed": 3, "none": None}
    assert logs._flat(config) == {
        **{"data.path": "cats", "data.box.margin": 0.1, "unet.channels": "[1, 2]"},
        **{"seed": 3, "none": "None"},
    }
