"""Limits of numbers: what they let through, what they say, and that every option of a command has some."""

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cardiff.cli import parse_options
from cardiff.config.limits import Limits, check_limits, limited
from cardiff.errors import UserError
from cardiff.evaluation.options import CompareOptions, EvaluateOptions
from cardiff.sampling.options import SampleOptions


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "text"),
    [
        (Limits(), (-1, 0, 2.5), (math.nan, math.inf, -math.inf), "be a number"),
        (Limits(least=1), (1, 7, 10**400), (0, math.nan, math.inf), "be 1 or more"),
        (Limits(above=0), (1e-9,), (0, -1, math.nan), "be above 0"),
        (Limits(least=0, most=1), (0, 1), (-0.1, 1.1, math.nan), "lie between 0 and 1"),
        (Limits(least=0, below=1), (0, 0.99), (1, -0.1, math.nan), "be 0 or more and below 1"),
        (Limits(above=0, infinite=True), (1, math.inf), (0, -math.inf, math.nan), "be above 0"),
    ],
)
def test_limits(limits, inside, outside, text):
    assert all(number in limits for number in inside)
    assert not any(number in limits for number in outside)
    assert str(limits) == text


@dataclass
class Example:
    """An example."""

    count: int | None = limited(None, least=1)
    """A count."""
    shares: list[list[float]] | str = limited([[0.5]], least=0, most=1)
    """Shares."""
    plain: float | bool = 0.0
    """Of which nothing is declared."""


def test_every_number_is_found():
    check_limits(Example(), "--")
    check_limits(Example(shares="0,5", plain=True), "--")
    for changes, sentence in (
        ({"count": 0}, "--count is 0, but must be 1 or more."),
        ({"shares": [[0.1], [0.2, 3]]}, r"--shares is .*, but each of them must lie between 0 and 1."),
        ({"plain": math.nan}, "--plain is nan, but must be a number."),
        ({"plain": -math.inf}, "--plain is -inf, but must be finite."),
    ):
        with pytest.raises(UserError, match=sentence):
            check_limits(Example(**changes), "--")
    assert Example().shares is not Example().shares  # each its own list


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        (EvaluateOptions, ["--batch_size", "0"], "--batch_size is 0, but must be 1 or more."),
        (EvaluateOptions, ["--replicates", "1"], "--replicates is 1, but must be 2 or more."),
        (EvaluateOptions, ["--guidance_rescale", ".nan"], "--guidance_rescale is nan, but must be a number."),
        (EvaluateOptions, ["--guidance_interval", "[.nan,1]"], "--guidance_interval is [nan, 1.0], but each of them"),
        (CompareOptions, ["run", "--num_images", "0"], "--num_images is 0, but must be 1 or more."),
        (CompareOptions, ["run", "--halving_rounds", "-1"], "--halving_rounds is -1, but must be 0 or more."),
        (SampleOptions, ["--model", "m", "--seed", "-1"], "--seed is -1, but must be 0 or more."),
    ],
)
def test_the_options_of_a_command_are_checked_when_they_are_read(options, arguments, sentence, capsys):
    output = ["--output", "out"]
    with pytest.raises(SystemExit) as stop:
        parse_options(options, [*arguments, *output], "", positional="runs" if options is CompareOptions else None)
    assert stop.value.code == 2 and f"error: {sentence}" in capsys.readouterr().err


def test_an_open_interval_is_accepted():
    given = parse_options(SampleOptions, ["--model", "m", "--guidance_interval", "[-.inf,2]"], "")
    assert given.guidance_interval == [-math.inf, 2.0]


def test_the_help_still_documents_limited_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_options(Example, ["--help"], "")
    assert "A count." in capsys.readouterr().out


def test_the_sections_and_the_names_of_schedules_need_no_torch():
    """Or `--help` would take seconds."""
    code = (
        "import sys, cardiff.config.run, schedulers\n"
        "assert 'cosine' in schedulers.SCHEDULES\n"
        "print({'torch', 'diffusers', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr
