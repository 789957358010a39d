"""Lists of the command line: every form that is read, and what is refused."""

from dataclasses import dataclass

import pytest

from cardiff.cli import parse_options
from cardiff.config.limits import limited
from cardiff.config.types import Floats, Ints, Names, WithLists
from cardiff.errors import UserError
from cardiff.evaluation.options import CompareOptions, EvaluateOptions
from cardiff.sampling.options import SampleOptions


@dataclass
class Lists(WithLists):
    """Some lists."""

    scales: Floats = limited([1.0])
    """Numbers."""
    steps: Ints = limited([25], least=1)
    """Whole numbers."""
    solvers: Names = limited(["dpm"])
    """Names."""


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("0,1,2.5", [0.0, 1.0, 2.5]),
        ("[0, 1, 2.5]", [0.0, 1.0, 2.5]),
        ("2", [2.0]),
        ("-1,1e-7", [-1.0, 1e-7]),
        ("1,1", [1.0, 1.0]),
    ],
)
def test_numbers_of_the_command_line_and_of_a_file(text, scales, tmp_path):
    (tmp_path / "o.yaml").write_text(f"scales: {text}\n")
    for argv in ([f"--scales={text}"], ["--config", str(tmp_path / "o.yaml")]):
        found = parse_options(Lists, argv, "test").scales
        assert found == scales and {type(scale) for scale in found} == {float}


def test_whole_numbers_and_names(tmp_path):
    (tmp_path / "o.yaml").write_text("steps: [2, 4]\nsolvers:\n- dpm\n- ddim\n")
    expected = Lists(steps=[2, 4], solvers=["dpm", "ddim"])
    assert parse_options(Lists, ["--config", str(tmp_path / "o.yaml")], "test") == expected
    assert parse_options(Lists, ["--steps", "2,4", "--solvers", "dpm, ddim"], "test") == expected
    assert parse_options(Lists, ["--steps", "[2,4]", "--solvers", "[dpm,ddim]"], "test") == expected
    assert parse_options(Lists, ["--steps", "4"], "test") == Lists(steps=[4])


def test_python_takes_the_same_forms():
    """A single value too: its iteration would fail with a TypeError far away."""
    assert Lists(scales=2, steps=4, solvers="dpm,ddim") == Lists([2.0], [4], ["dpm", "ddim"])
    assert SampleOptions(guidance_scale=1.5, classifier_scale=(0, 2)).classifier_scale == [0.0, 2.0]
    evaluated = EvaluateOptions(model="m", output="o", guidance_scale=1.5, seeds=3)
    assert (evaluated.guidance_scale, evaluated.seeds, evaluated.steps, evaluated.solver) == ([1.5], [3], 25, "dpm")
    compared = CompareOptions(runs=["r"], output="o", solver="ddim", steps=5)
    assert (compared.solver, compared.steps) == (["ddim"], [5])
    with pytest.raises(UserError, match="^guidance_scale is 'much', but must be a number, or several with commas"):
        SampleOptions(guidance_scale="much")


def test_the_defaults_are_not_shared():
    Lists().scales.append(2.0)
    assert parse_options(Lists, [], "test") == Lists(scales=[1.0], steps=[25], solvers=["dpm"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--scales", "much"], "scales is 'much', but must be a number, or several with commas: 0,1.5,2."),
        (["--scales", "1,,2"], "scales is '1,,2', but must be a number, or several with commas: 0,1.5,2."),
        (["--scales", "[]"], "scales is [], but must be a number, or several with commas: 0,1.5,2."),
        (["--scales", "true"], "scales is 'true', but must be a number, or several with commas: 0,1.5,2."),
        (["--scales", "1,nan"], "--scales is [1.0, nan], but each of them must be a number."),
        (["--steps", "1.5"], "steps is '1.5', but must be a whole number, or several with commas: 0,1,2."),
        (["--steps", "2,4.5"], "steps is '2,4.5', but must be a whole number, or several with commas: 0,1,2."),
        (["--steps", "0"], "--steps is [0], but each of them must be 1 or more."),
        (["--config", "solvers: 1"], "solvers is 1, but must be a name, or several with commas."),
        (["--config", "steps: 1.5"], "steps is 1.5, but must be a whole number, or several with commas: 0,1,2."),
        (["--config", "steps: [true]"], "steps is [True], but must be a whole number, or several with commas: 0,1,2."),
    ],
)
def test_what_is_refused_is_one_sentence(argv, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(Lists, argv, "test")
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_help_shows_the_kind_of_list_and_the_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_options(Lists, ["--help"], "test")
    assert "Numbers. (type: Floats, default: [1.0])" in " ".join(capsys.readouterr().out.split())
