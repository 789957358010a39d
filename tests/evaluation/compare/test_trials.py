"""The measurements of a comparison on the disk."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cardiff.evaluation.compare.candidates import Trial
from cardiff.evaluation.compare.trials import append_trial, keep_whole, read_trials
from cardiff.evaluation.metrics.intervals import Estimate


@pytest.fixture
def trial():
    estimate = Estimate(1 / 3, np.random.default_rng(0).normal(size=5), "bootstrap", (0.1, 0.5))
    row = {"class": "é", "images": 3, "real_images": 2, "share_of_the_data": 0.1, "accuracy": None, "distance": 0.2}
    return Trial(8, {"fid": estimate}, {"unet": 4.0}, [{**row, "diversity": None}], (0.1, 0.2), None, None, Path("x"))


@pytest.fixture
def file(trial, tmp_path):
    for key in ("a", "b", "c"):
        append_trial(tmp_path / "trials.jsonl", key, trial)
    return tmp_path / "trials.jsonl"


def test_what_is_written_is_read(file, trial):
    known, damaged = read_trials(file)
    assert list(known) == ["a", "b", "c"] and damaged == 0
    found = Trial.from_dict(known["b"], Path("y"))
    assert (found.count, found.evaluations, found.per_class) == (8, trial.evaluations, trial.per_class)
    assert found.estimates["fid"].interval() == trial.estimates["fid"].interval() and found.folder == Path("y")
    np.testing.assert_array_equal(found.estimates["fid"].deviations, trial.estimates["fid"].deviations)
    assert read_trials(file.with_name("nothing.jsonl")) == ({}, 0)


def test_a_bit_anywhere_costs_one_measurement_and_changes_none(file):
    whole = file.read_bytes()
    known = read_trials(file)[0]
    for bit in range(0, 8 * len(whole), 3):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        found, damaged = read_trials(file)
        assert len(found) >= 1 and all(known[key] == entry for key, entry in found.items())
        assert damaged or found == known  # such as \u00E9 for \u00e9


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"key": "cut sh',
        "[]",
        "null",
        '{"key": "a"}',
        '{"key": ["a"], "estimates": {}}',
        '{"key": "a", "estimates": {"fid": {"value": NaN}}}',
    ],
)
def test_what_is_not_whole_is_measured_again(line, file, caplog):
    whole = file.read_text()
    known = read_trials(file)[0]
    with open(file, "a") as opened:
        opened.write(line)  # without an end, to which the next one would be appended
    found, damaged = read_trials(file)
    assert (found, damaged) == (known, 1)
    keep_whole(file, found, damaged)
    assert file.read_text() == whole and "1 measurements in" in caplog.text
    caplog.clear()
    keep_whole(file, found, 0)
    assert not caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        {"count": 8},
        {"key": ["a"], "count": 8},
        {"key": "a", "estimates": 3},
        {"key": "a", "estimates": {"fid": 3}},
        {"key": "a", "estimates": {"fid": {"value": 1}}},
        {"key": "a", "estimates": {}, "surprise": 3},
    ],
)
def test_measurements_of_anybody_are_made_again(entry, file):
    """The checksums fit here."""
    text = json.dumps({**entry, "sha256": hashlib.sha256(json.dumps(entry).encode()).hexdigest()})
    file.write_text(file.read_text() + text + "\n")
    known, damaged = read_trials(file)
    assert damaged == 1 and list(known) == ["a", "b", "c"]


def test_measurements_of_an_earlier_version_are_made_again(file):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "sha256": None}) + "\n" for line in lines))
    assert read_trials(file) == ({}, 3)
    for line in lines:
        del line["sha256"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_trials(file) == ({}, 3)


def test_bytes_that_are_no_text(file):
    content = file.read_bytes()
    file.write_bytes(content + b"\xff\xfe\x00\n")
    assert len(read_trials(file)[0]) == 3


def test_a_full_disk_leaves_the_lines_before(file, trial, small_files):
    before = file.read_bytes()
    trial.per_class *= 200
    with pytest.raises(OSError) as error:
        append_trial(file, "d", trial)
    assert error.value.filename == str(file) and file.read_bytes() == before
