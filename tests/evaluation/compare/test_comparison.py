"""Comparing runs: equal terms, halving, going on, and the report."""

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardiff.cli import parse_options
from cardiff.errors import UserError
from cardiff.evaluation.compare import comparison as compare_module
from cardiff.evaluation.compare.candidates import file_name
from cardiff.evaluation.compare.comparison import Comparison
from cardiff.evaluation.evaluate import run as evaluate
from cardiff.evaluation.options import CompareOptions, EvaluateOptions
from cardiff.evaluation.reports import comparison as compare_report
from cardiff.evaluation.reports.comparison import run, write_comparison
from tests.support.tiny_set import COUNTS, write_world

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("comparison"))


@pytest.fixture
def options(world, tmp_path):
    return CompareOptions(
        output=str(tmp_path / "report"), runs=[f"conditional={world['model']}", f"unconditional={world['twin']}"],
        reference=str(world["train"]), validation_data=str(world["held_out"]), accuracy_classifier=str(world["judge"]),
        network="pixels",
        metrics="fid,kid,accuracy,diversity", replicates=20, guidance_scale=[0, 1, 3], steps=[2, 4], batch_size=8,
        num_images=32,
    )  # fmt: skip


def record_of(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_a_setting_has_the_figures_that_evaluate_gives(world, options, tmp_path):
    found = record_of(run(options))
    assert len(found["settings"]) == 2 * 3 + 2
    entry = next(e for e in found["settings"] if (e["steps"], e["guidance_scale"]) == (4, 3.0))
    alone = EvaluateOptions(
        output=str(tmp_path / "alone"), model=str(world["model"]), reference=str(world["train"]), network="pixels",
        metrics="fid,kid,diversity", replicates=20, guidance_scale=[3], steps=4, batch_size=8, num_images=32,
    )  # fmt: skip
    by_evaluate = json.loads((evaluate(alone) / "metrics.json").read_text())["metrics"]
    for name in ("fid", "kid", "diversity"):
        assert entry["metrics"][name] == by_evaluate[name]
    assert entry["evaluations"] == {"unet": 8.0}


def test_halving_gives_up_the_worse_half_and_draws_nothing_twice(options, monkeypatch):
    drawn = []
    draw_folder = compare_module.draw_folder

    def counting(model, output, *args, count, **kwargs):
        drawn.append((str(output), count - len(list(Path(output).glob("*.png")))))
        return draw_folder(model, output, *args, count=count, **kwargs)

    monkeypatch.setattr(compare_module, "draw_folder", counting)
    found = record_of(run(replace(options, halving_rounds=2)))
    assert found["counts"] == [8, 16, 32]
    images = {(e["run"], e["steps"], e["guidance_scale"]): e["images"] for e in found["settings"]}
    assert {e["images"] for e in found["first_round"]} == {8} and len(found["first_round"]) == 8
    conditional = sorted(count for (name, *_), count in images.items() if name == "conditional")
    assert conditional[-1] == 32 and conditional.count(8) in (2, 3)
    assert images["conditional", 2, 1.0] == images["unconditional", 2, None] == 32  # compared whatever comes
    assert sum(count for _, count in drawn) == sum(images.values())
    # The worse half is the worse half.
    first = {
        (e["steps"], e["guidance_scale"]): e["metrics"]["fid"]["value"]
        for e in found["first_round"]
        if e["run"] == "conditional"
    }
    given_up = [key for key in first if images["conditional", *key] == 8]
    kept = [key for key in first if images["conditional", *key] > 8 and key != (2, 1.0)]
    assert min(first[key] for key in given_up) >= max(first[key] for key in kept)


def test_an_interrupted_comparison_goes_on(options, monkeypatch):
    options = replace(options, guidance_scale=[1, 3], num_images=16)
    draw_folder, calls = compare_module.draw_folder, []

    def interrupted(*args, **kwargs):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return draw_folder(*args, **kwargs)

    monkeypatch.setattr(compare_module, "draw_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(options)
    with open(Path(options.output) / "trials.jsonl", "a") as file:
        file.write('{"key": "cut sh')
    calls.clear()
    monkeypatch.setattr(compare_module, "draw_folder", lambda *a, **k: calls.append(a) or draw_folder(*a, **k))
    found = record_of(run(options))
    assert len(calls) == 6 - 3
    monkeypatch.setattr(compare_module, "draw_folder", None)  # all is known now
    assert record_of(run(options)) == found
    calls.clear()
    monkeypatch.setattr(compare_module, "draw_folder", lambda *a, **k: calls.append(a) or draw_folder(*a, **k))
    assert len(record_of(run(replace(options, guidance_scale=[1, 2, 3])))["settings"]) == 8
    assert len(calls) == 2  # what a wider sweep adds


def test_all_runs_start_from_the_same_noise(options):
    folder = run(replace(options, guidance_scale=[1], steps=[2]))
    entries = [
        [json.loads(line) for line in (folder / f"images/{name}/seed-0/manifest.jsonl").read_text().splitlines()]
        for name in ("conditional-0/dpm-2-w1", "unconditional-0/dpm-2")
    ]
    assert [e["seed"] for e in entries[0]] == [e["seed"] for e in entries[1]]
    drawn = np.bincount([e["label"] for e in entries[0]], minlength=12)
    assert drawn.sum() == 32 and np.abs(drawn - np.array(COUNTS) / 60 * 32).max() <= 1


def test_the_report_has_its_figures_and_says_what_differs(options, monkeypatch):
    monkeypatch.undo()  # they are drawn here
    folder = run(replace(options, halving_rounds=1))
    text = (folder / "report.md").read_text()
    for name in ("curves.png", "steps.png", "grid.png"):
        assert f"]({name})" in text and (folder / name).stat().st_size > 3000
    assert "**conditional** (w = 1, dpm, 2 steps) against **unconditional** (dpm, 2 steps):\n\n- pixel-FD" in text
    assert "not known to be" in text  # these models carry no training record
    assert "## All settings" in text and "| real images, held out | 32 images |" in text


def test_several_trainings_of_one_name(world, options):
    found = record_of(run(replace(options, runs=[*options.runs, f"conditional={world['model']}"], steps=[2])))
    assert {(e["run"], e["trials"]) for e in found["settings"]} == {("conditional", 2), ("unconditional", 1)}


def test_the_precision_is_part_of_the_record_and_of_what_is_known(world, options, monkeypatch):
    options = replace(options, steps=[2], guidance_scale=[1], num_images=8, metrics="fid")
    assert "sampling" not in record_of(run(options))
    found = record_of(run(replace(options, precision="bf16", output=options.output + "_bf16")))
    assert found["sampling"] == {"precision": "bf16"}
    monkeypatch.setattr(compare_module, "draw_folder", None)
    assert "sampling" not in record_of(run(replace(options, precision="float32")))  # as auto is on a CPU


# Names


def test_names_that_are_markup_or_no_file_names_mean_themselves(world, options):
    """In the report, in its figures, and as folders that stay inside the output folder."""
    names = ["../a|b", "*_x$$*"]
    runs = [f"{names[1]}={world['model']}", f"{world['twin']}"]
    options = replace(options, runs=runs, guidance_scale=[1, 1.00000001], steps=[2], num_images=20, metrics="kid")
    options.rank_by = "kid"
    comparison = Comparison(options)
    comparison.candidates[1].name = names[0]  # as a folder with "/" in a name could not be given
    comparison.run()
    write_comparison(comparison, None)
    folder = Path(options.output)
    assert not (folder.parent / "a|b-0").exists() and not (folder / "a|b-0").exists()
    drawn = {path.name for path in (folder / "images").iterdir()}
    assert drawn == {f"{file_name(names[0])}-0", f"{file_name(names[1])}-0"}
    assert {path.name for path in (folder / "images" / f"{file_name(names[1])}-0").iterdir()} == {
        "dpm-2-w1",
        "dpm-2-w1.00000001",
    }
    page = (folder / "report.html").read_text()
    cells = {html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)}
    assert set(names) <= cells and page.count("<em>") == 1  # the figures' caption
    assert record_of(folder)["runs"].keys() == set(names)
    assert "Guidance" not in (folder / "report.md").read_text()  # nothing of what it tells was measured


# Few images and many classes


def test_settings_are_ranked_by_what_all_of_them_have(world, options):
    """Samples without labels have no accuracy, and without a judge no diversity."""
    for metric, judge in (("accuracy", options.accuracy_classifier), ("diversity", None)):
        metrics = "fid,diversity" if judge is None else options.metrics
        with pytest.raises(UserError, match=f"--rank_by {metric} cannot rank the settings of unconditional"):
            Comparison(replace(options, rank_by=metric, accuracy_classifier=judge, metrics=metrics))


def test_a_figure_that_some_settings_lack_is_left_out(options, tmp_path):
    """Of three samples too few are of one class for a diversity; everything else is there."""
    few = replace(options, num_images=3, metrics="fid,diversity", guidance_scale=[1], steps=[2])
    found = record_of(run(few))
    assert "Where a cell is empty, samples have no labels" in (Path(few.output) / "report.md").read_text()
    assert all("fid" in entry["metrics"] for entry in found["settings"])
    assert "diversity" not in next(e for e in found["settings"] if e["run"] == "conditional")["metrics"]


def test_a_warning_names_the_run_and_the_setting(options, caplog, monkeypatch):
    monkeypatch.setattr(compare_report, "contradictions", lambda values: ["Too good."] if values["fid"] > 0 else [])
    folder = run(replace(options, guidance_scale=[1], steps=[2], metrics="fid", num_images=8))
    assert [entry["warnings"] for entry in record_of(folder)["settings"]] == [["Too good."]] * 2
    assert "**Warning.** conditional (w = 1, dpm, 2 steps): Too good." in html.unescape(
        (folder / "report.md").read_text().replace("\\", "")
    )
    assert "unconditional (dpm, 2 steps): Too good." in caplog.text


# Refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"runs": []}, "Name the runs to compare"),
        ({"runs": ["=model"]}, "The run '=model' has no name or no folder"),
        ({"runs": ["a="]}, "The run 'a=' has no name or no folder"),
        ({"guidance_scale": [1.0, math.nan]}, "--guidance_scale is [1.0, nan], but each of them must be a number."),
        ({"steps": [0]}, "--steps is [0], but each of them must be 1 or more."),
        ({"solver": ["dmp"]}, "--solver names 'dmp', which is not a solver: choose from"),
        ({"seeds": [1, 1]}, "--seeds is [1, 1], but the seeds must be different."),
        ({"seeds": [-1]}, "--seeds is [-1], but each of them must be 0 or more."),
        ({"rank_by": "recall"}, "--rank_by is 'recall', which is not measured: choose from fid, kid"),
        ({"halving_rounds": 3}, "32 images are too few for 3 halving rounds in batches of 8"),
        ({"halving_rounds": -1}, "--halving_rounds is -1"),
        ({"steps": [2, 1001]}, "--steps is 1001, but the model has 1000 timesteps: give 1 to 1000"),
        ({"classifier_scale": [1, 2]}, "--classifier_scale is [1.0, 2.0], but one value is measured at a time"),
        ({"reference": None}, "No run has a config.yaml that names its training data: give --reference."),
    ],
)
def test_refused(changes, sentence, options):
    with pytest.raises(UserError) as error:
        Comparison(replace(options, **changes))
    assert sentence in str(error.value)


def test_two_runs_of_one_name_by_accident(world, options):
    """They would pass for two trainings of the same thing."""
    model = world["model"]
    with pytest.raises(UserError, match=f"Two runs are called {model.name}: give them names, one="):
        Comparison(replace(options, runs=[str(model), f"{model.parent}/./{model.name}"]))


def test_conditional_and_unconditional_need_two_names(world, options):
    with pytest.raises(UserError, match="The runs called a are conditional and unconditional"):
        Comparison(replace(options, runs=[f"a={world['model']}", f"a={world['twin']}"]))


def test_options_of_the_command_line():
    arguments = ["runs/a", "b=runs/b", "--output", "out", "--steps", "10,50", "--solver", "dpm,ddim"]
    options = parse_options(CompareOptions, arguments, "", positional="runs")
    assert options.runs == ["runs/a", "b=runs/b"] and options.steps == [10, 50] and options.solver == ["dpm", "ddim"]
    assert (options.guidance_scale, options.seeds) == ([0, 1, 1.5, 2, 3], [0])
