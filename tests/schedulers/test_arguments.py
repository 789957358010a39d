"""The options that a schedule brings, read without diffusers, are those of its class."""

import inspect

import pytest
from docstring_parser import parse

from cardiff import schedulers
from cardiff.config import schedule as config_schedule
from cardiff.config.run import parse_run
from cardiff.schedulers import SCHEDULES, find_arguments, find_schedule
from cardiff.schedulers.arguments import spectrum_arguments

FUNCTION = '''
from __future__ import annotations


def power(t, exponent: float, top=0.999, knots: list[float] | None = None, *, falling: bool = True):
    """A power.

    Args:
        exponent: The power itself.
    """
    return top * (1 - 0.99 * t) ** exponent


def bare(t):
    return 0.9 - t / 2
'''


@pytest.fixture(params=[*SCHEDULES, "power", "bare"])
def name(request, tmp_path):
    """Every shipped schedule, and functions of the user's."""
    (tmp_path / "mine.py").write_text(FUNCTION)
    return request.param if request.param in SCHEDULES else f"{tmp_path / 'mine.py'}:{request.param}"


def test_the_arguments_are_those_of_the_class(name):
    arguments, schedule = find_arguments(name), find_schedule(name)
    assert not issubclass(arguments, schedulers.NoiseSchedule)
    # Texts, since a parameter named NaN or a Literal made twice need not be equal to itself.
    assert str(inspect.signature(arguments)) == str(inspect.signature(schedule))
    assert arguments.__init__.__doc__ == schedule.__init__.__doc__


@pytest.mark.parametrize("by", ["option", "file"])
def test_the_help_is_that_of_the_class(name, by, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(f"scheduler: {{name: '{name}'}}")
    argv = ["--scheduler.name", name] if by == "option" else ["--config", str(tmp_path / "run.yaml"), "--allow_code"]

    def shown() -> str:
        with pytest.raises(SystemExit, match="0"):
            parse_run([*argv, "--help"], kind="conditional", description="")
        return capsys.readouterr().out

    found = shown()
    monkeypatch.setattr(config_schedule, "find_arguments", find_schedule)
    assert found == shown()
    options = set(inspect.signature(find_schedule(name)).parameters) - {"trained_betas"}
    assert all(f"--scheduler.{option} " in found for option in options)


def test_every_argument_is_documented(name):
    schedule = find_schedule(name)
    documented = {param.arg_name: param.description for param in parse(schedule.__init__.__doc__).params}
    undocumented = set(inspect.signature(schedule).parameters) - documented.keys()
    assert undocumented == ({"top", "knots", "falling"} if name.endswith(":power") else set())
    for shared in parse(inspect.getdoc(spectrum_arguments)).params:
        assert documented.get(shared.arg_name, shared.description) == shared.description


INHERITED = """
from cardiff.schedulers.scheduling_cosine import CosineScheduler


class OddScheduler(CosineScheduler):
    pass
"""
NAMED_DEFAULT = """
from cardiff.schedulers.scheduling_base import NoiseSchedule, times

TOP = 0.999


class OddScheduler(NoiseSchedule):
    @staticmethod
    def alphas_bar(num_train_timesteps: int, top: float = TOP):
        return top - times(num_train_timesteps) / 2
"""


@pytest.mark.parametrize(("name", "code"), [("inherited", INHERITED), ("named_default", NAMED_DEFAULT)])
def test_a_schedule_written_in_another_way_is_imported(name, code, tmp_path, monkeypatch):
    (tmp_path / f"scheduling_{name}.py").write_text(code)
    monkeypatch.setattr(schedulers, "__path__", [*schedulers.__path__, str(tmp_path)])
    monkeypatch.setattr(schedulers, "SCHEDULES", type(schedulers.SCHEDULES)())
    assert find_arguments(name) is find_schedule(name)


@pytest.mark.parametrize("name", ["cosin", "nowhere.py:f"])
def test_what_does_not_exist_is_refused_alike(name):
    with pytest.raises(ValueError) as of_class:
        find_schedule(name)
    with pytest.raises(ValueError) as of_arguments:
        find_arguments(name)
    assert str(of_class.value) == str(of_arguments.value)
