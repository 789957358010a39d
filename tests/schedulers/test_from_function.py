"""Schedules from functions of the user's, in Python and in a file; the registry that finds them."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from cardiff import schedulers
from cardiff.schedulers import SCHEDULES, NoiseSchedule, find_schedule, schedule_from_function
from tests.support.example_schedules import example
from tests.support.without_project import run_without_project

FILE = '''
from __future__ import annotations

import numpy as np


def power(t, exponent: float = 2.0, top=0.999, knots: list[float] | None = None):
    """A power of 1 − t.

    Args:
        t: Times.
        exponent: The power itself.

    Returns:
        ᾱ at these times.
    """
    return top * (1 - 0.99 * t) ** exponent


def needs(t, exponent: float):
    return 0.999 * (1 - 0.99 * t) ** exponent


def rising(t):
    return t / 2


def short(t):
    return 0.9 - t[:-1] / 2


def wordy(t):
    return "falling"


def failing(t):
    return t / undefined


def clashing(t, clip_sample=True):
    return 0.9 - t / 2


def nothing():
    return 0.5


not_a_function = 3
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_function_is_a_schedule():
    seen = []

    def straight(t, top=0.9, bottom=0.1):
        seen.append(t)
        return top + t * (bottom - top)

    schedule = schedule_from_function(straight)
    scheduler = schedule(num_train_timesteps=4, bottom=0.2, prediction_type="v_prediction")
    assert issubclass(schedule, NoiseSchedule) and schedule.__name__ == "straight"
    np.testing.assert_array_equal(seen[0], [0.25, 0.5, 0.75, 1])
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.tensor([0.725, 0.55, 0.375, 0.2]), rtol=1e-6, atol=0)
    assert (scheduler.config.top, scheduler.config.bottom) == (0.9, 0.2)
    assert schedule_from_function(straight, name="line").__name__ == "line"


def test_a_function_in_a_file(file, tmp_path):
    schedule = find_schedule(f"{file}:power")
    parameters = inspect.signature(schedule).parameters
    assert parameters["exponent"].annotation is float and parameters["top"].annotation is float
    assert {"num_train_timesteps", "prediction_type", "rescale_betas_zero_snr"} <= parameters.keys()
    assert "exponent: The power itself." in schedule.__init__.__doc__
    t = np.arange(1, 1001) / 1000
    scheduler = schedule(exponent=3.0)
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), torch.from_numpy(0.999 * (1 - 0.99 * t) ** 3), rtol=0, atol=1e-6
    )
    # Loading what was saved needs nothing of the file.
    scheduler.to_stock().save_pretrained(tmp_path / "saved")
    file.unlink()
    run_without_project(
        "from diffusers import DDPMScheduler; import torch;"
        "torch.save(DDPMScheduler.from_pretrained('saved').alphas_cumprod, 'alphas.pt')",
        tmp_path,
    )
    torch.testing.assert_close(torch.load(tmp_path / "alphas.pt"), scheduler.alphas_cumprod, rtol=0, atol=0)
    assert type(scheduler.to_stock()) is DDPMScheduler


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("needs", "needs: exponent has no default: give it"),
        ("rising", "rising: alphas_cumprod must fall strictly"),
        ("short", r"short: alphas_cumprod has the shape \(999,\), but num_train_timesteps is 1000"),
        ("wordy", "wordy: the function fails with ValueError: could not convert string to float"),
        ("failing", "failing: the function fails with NameError: name 'undefined' is not defined"),
        (
            "clashing",
            "clashing: the function's parameter clip_sample=True must be an ordinary parameter with another name than",
        ),
        ("nothing", "nothing: the function must take the times t as its first parameter"),
        ("absent", "mine.py has no function 'absent'"),
        ("not_a_function", "mine.py has no function 'not_a_function'"),
    ],
)
def test_refused_functions(file, function, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_schedule(f"{file}:{function}")()


def test_refused_files(tmp_path):
    with pytest.raises(ValueError, match="There is no file nowhere.py to take the function f from"):
        find_schedule("nowhere.py:f")
    (tmp_path / "broken.py").write_text("def f(t:\n")
    with pytest.raises(ValueError, match="broken.py cannot be imported: SyntaxError"):
        find_schedule(f"{tmp_path / 'broken.py'}:f")


# The registry


def test_a_file_is_a_schedule():
    """Every scheduling_*.py is registered under its name, and nothing else is."""
    files = {
        path.stem.removeprefix("scheduling_") for path in Path(schedulers.__file__).parent.glob("scheduling_*.py")
    }
    assert list(SCHEDULES) == sorted(files - {"base"})
    for name, schedule in SCHEDULES.items():
        assert find_schedule(name) is schedule and schedule.__module__ == f"cardiff.schedulers.scheduling_{name}"
        assert type(example(name)) is schedule


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cosin", "There is no schedule 'cosin'; did you mean 'cosine'?"),
        ("zzz", "There is no schedule 'zzz'; choose from cauchy, constant, .* or FILE.py:FUNCTION"),
        ("mine.py", "There is no schedule 'mine.py'; choose from"),
    ],
)
def test_unknown_names(name, sentence):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        find_schedule(name)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_parameter_is_documented(name):
    documentation = SCHEDULES[name].__init__.__doc__
    for parameter in list(inspect.signature(SCHEDULES[name].__init__).parameters)[1:]:
        assert f"    {parameter}: " in documentation


def test_parameters_without_a_default_may_come_last():
    """As a function may have them behind a star; they have to be given."""

    def power(t, start=1.0, *, exponent):
        return start * (1 - 0.99 * t) ** exponent

    schedule = schedule_from_function(power)
    found = schedule.alphas_bar(4, start=0.9, exponent=2.0)
    np.testing.assert_allclose(found, 0.9 * (1 - 0.99 * np.array([0.25, 0.5, 0.75, 1.0])) ** 2)
    assert schedule(start=0.9, exponent=2.0, num_train_timesteps=4).config.exponent == 2.0
    with pytest.raises(ValueError, match="exponent has no default: give it"):
        schedule(start=0.9)
