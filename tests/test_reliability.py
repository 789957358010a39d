"""A few trials of each quick part of benchmarks/reliability.py, and that its verdicts can be bad ones."""

import json
import random
import subprocess
import sys

import pytest

from benchmarks import reliability
from benchmarks.campaign import mutations
from benchmarks.campaign.commands import Command, Outcome, run
from benchmarks.campaign.trials import BAD, difference, fingerprint, judge
from tests.conftest import ROOT

COUNTS = {"kills": 1, "mutations": 8, "inputs": 12, "hostile": 10}


def test_a_few_trials_of_each_quick_part(tmp_path):
    counts = ",".join(f"{part}={count}" for part, count in COUNTS.items())
    command = [sys.executable, "benchmarks/reliability.py", "--only", ",".join(COUNTS), "--counts", counts]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "results"), "--work", str(tmp_path / "work")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    record = json.loads((tmp_path / "results/report.json").read_text())
    tried = {part: sum(verdicts.values()) for part, verdicts in record["counts"].items() if verdicts}
    assert tried == COUNTS and not record["failures"]
    assert (tmp_path / "results/report.md").read_text() == done.stdout


ENDINGS = {
    "identical": (Outcome(0, "done", "", 1), None),
    "refused": (Outcome(1, "", "a bar 3%\nerror: The file x is damaged: copy it again.\n", 1), None),
    "silent": (Outcome(0, "done", "", 1), "different: x"),
    "traceback": (Outcome(1, "", "Traceback (most recent call last)\n  File\nKeyError: 3\n", 1), None),
    "unclear": (Outcome(1, "", "error: one.\nerror: two.\n", 1), None),
    "hung": (Outcome(-9, "", "", 120, hung=True), None),
}


@pytest.mark.parametrize("verdict", ENDINGS)
def test_the_verdict_on_an_ending(verdict):
    assert judge(*ENDINGS[verdict])[0] == verdict


def test_a_command_that_crashes_is_a_traceback():
    assert judge(Outcome(-11, "", "", 1), None)[0] == "traceback"
    assert judge(Outcome(1, "", "no word", 1), None)[0] == "unclear"


def test_results_differ_by_content_and_not_by_time(tmp_path):
    def result(name, seconds=1.0, loss=0.5, more=()):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"seconds": seconds}))
        (folder / "metrics.jsonl").write_text(json.dumps({"loss": loss, "images_per_second": seconds}) + "\n")
        for other in more:
            (folder / other).touch()
        return fingerprint(folder)

    expected = result("a")
    assert difference(result("b", seconds=2.0), expected) is None
    assert difference(result("c", loss=0.6), expected) == "different: metrics.jsonl"
    assert difference(result("d", more=["x"]), expected) == "too much: x"
    assert difference({}, expected) == "missing: metrics.jsonl, run.json"


def test_a_forked_command_ends_as_it_would_alone(tmp_path):
    outcome = run(Command("sample", ("--model", "nothing/there/at/all", "--output", str(tmp_path / "out"))), tmp_path)
    assert outcome.status == 1 and "nothing/there/at/all" in outcome.sentence


def test_every_damage_changes_the_file(tmp_path):
    file, content = tmp_path / "a.json", json.dumps({"a": {"b": [1, 2]}, "c": "d"})
    for seed in range(60):
        file.write_text(content)
        assert mutations.spoil(file, random.Random(seed))
        assert not file.exists() or file.read_bytes() != content.encode()


def test_a_failure_is_listed_with_the_command_that_repeats_it():
    results = [
        {
            "part": "kills",
            "number": 3,
            "seed": 1,
            "what": "training",
            "detail": "different: x",
            "seconds": 1.0,
            "version": "1",
        }
        | {"verdict": verdict, "command": ""}
        for verdict in ("identical", BAD[0])
    ]
    record = reliability.summary(results)
    assert record["counts"]["kills"] == {"identical": 1, BAD[0]: 1}
    lines = reliability.table(record).splitlines()
    assert lines[2] == "| kills | 2 | 0 | 1 | 0 | 1 |"
    assert lines[-1] == "  `python benchmarks/reliability.py --only kills --seed 1 --trial 3 --keep`"
