"""From what a visitor chose to sample.py's options and command line."""

import shlex
from dataclasses import replace

import pytest

from cardiff.app.settings import (
    AUTO,
    CFG_PLUS_PLUS,
    CLASSIFIER,
    INTERVAL,
    PLAIN,
    PROGRAM,
    RESCALED,
    THRESHOLD,
    Limits,
    Settings,
    command_line,
    options_of,
    quoted,
)
from cardiff.cli import parse_options
from cardiff.errors import UserError
from cardiff.sampling.labels import read_labels
from cardiff.sampling.options import SampleOptions
from tests.support.tiny_models import tiny_pipeline

NAMES = ("ant", "bee", "cat, black")
LIMITS = Limits({"cars": NAMES, "plain": ()}, "judge", max_images=12, max_steps=60)
SETTINGS = Settings("cars", labels=("bee",), columns=2)


def parsed(command: str) -> SampleOptions:
    assert command.startswith(f"{PROGRAM} ")
    argv = shlex.split(command.removeprefix(PROGRAM))
    return parse_options(SampleOptions, argv, description="x", flags=("allow_code",))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": NAMES},
        {"labels": ("cat, black", "ant"), "seed": 12},
        {"labels": (), "mixture": "0.25*ant+0.75*bee"},
        {"labels": NAMES, "mixture": '0.5*"cat, black"+0.5*bee'},
        {"model": "plain", "labels": (), "columns": 7},
        {"solver": "ddpm", "steps": 60, "steps_of": "spectral, pixels"},
        {"kind": PLAIN, "guidance_scale": 2.0},
        {"kind": PLAIN, "guidance_scale": 0.1 + 0.2},
        {"kind": INTERVAL, "guidance_scale": 3.5, "low": -1.5, "high": 2.0},
        {"kind": RESCALED, "guidance_scale": 3.0, "rescale": 0.7},
        {"kind": THRESHOLD, "guidance_scale": 3.0, "quantile": 0.995},
        {"kind": CFG_PLUS_PLUS, "guidance_scale": 0.6},
        {"kind": AUTO, "guidance_scale": 2.0, "worse": "plain"},
        {"kind": CLASSIFIER, "classifier_scale": 4.0},
    ],
)
def test_the_command_line_gives_the_same_options(changes):
    options = options_of(replace(SETTINGS, **changes), LIMITS, "my picture.png")
    assert parsed(command_line(options)) == options


def test_all_classes_beside_a_mixture_are_named():
    """Without a mixture, no name means all of them."""
    assert options_of(replace(SETTINGS, labels=NAMES), LIMITS, "x.png").labels is None
    both = options_of(replace(SETTINGS, labels=NAMES, mixture="0.5*ant+0.5*bee"), LIMITS, "x.png")
    assert both.labels == 'ant,bee,"cat, black",0.5*ant+0.5*bee' and both.num_images == 8


def test_what_each_kind_of_guidance_sets():
    def given(**changes):
        options = options_of(replace(SETTINGS, guidance_scale=3.0, classifier_scale=4.0, **changes), LIMITS, "x.png")
        plain = options_of(SETTINGS, LIMITS, "x.png")
        return {key: value for key, value in vars(options).items() if value != vars(plain)[key]}

    assert given() == {}
    assert given(kind=PLAIN) == {"guidance_scale": [3.0]}
    assert given(kind=INTERVAL, low=-2, high=1) == {"guidance_scale": [3.0], "guidance_interval": [-2, 1]}
    assert given(kind=RESCALED, rescale=0.5) == {"guidance_scale": [3.0], "guidance_rescale": 0.5}
    assert given(kind=THRESHOLD, quantile=0.9) == {"guidance_scale": [3.0], "dynamic_thresholding": 0.9}
    assert given(kind=CFG_PLUS_PLUS) == {"guidance_scale": [3.0], "cfg_plus_plus": True}
    assert given(kind=AUTO, worse="plain") == {"guidance_scale": [3.0], "guidance_model": "plain"}
    assert given(kind=CLASSIFIER) == {"classifier": "judge", "classifier_scale": [4.0]}


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 2),
        ({"labels": NAMES}, 6),
        ({"labels": ()}, 6),
        ({"labels": (), "mixture": "0.5*ant+0.5*bee"}, 2),
        ({"mixture": "0.5*ant+0.5*bee"}, 4),
        ({"model": "plain", "labels": ()}, 2),
    ],
)
def test_as_many_images_as_rows_and_columns(changes, count):
    assert options_of(replace(SETTINGS, **changes), LIMITS, "x.png").num_images == count


@pytest.mark.parametrize(
    "name", ["ant", "7", "a, b", 'a "b"', "@file", "index:3", "a*b", "a+b", " ant", "Škoda 1.0", "é"]
)
def test_a_name_of_any_characters_is_read_as_that_class(name):
    pipeline = tiny_pipeline(id2label={0: "other", 1: name, 2: "third"})
    assert read_labels(f"other,{quoted(name)},third", pipeline) == [0, 1, 2]
    assert read_labels(quoted(name), pipeline) == [1]


def test_a_name_that_is_a_number_is_quoted():
    """A bare 3 is the index of a class wherever no class has that name."""
    assert [quoted(name) for name in ("3", "007", "3 doors", "three")] == ['"3"', '"007"', "3 doors", "three"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/etc"}, "There is no model '/etc' here: choose from cars, plain."),
        ({"labels": ("dog",)}, "There is no class 'dog' in this model"),
        ({"labels": (), "mixture": "@/etc/passwd"}, "must name classes"),
        ({"labels": (), "mixture": " @/etc/passwd"}, "must name classes"),
        ({"columns": 13}, "13 images were asked for, and 1 to 12 can be drawn here"),
        ({"columns": 0}, "0 images were asked for"),
        ({"labels": NAMES, "columns": 5}, "15 images"),
        ({"steps": 61}, "61 steps were asked for, and 1 to 60"),
        ({"steps": 0}, "0 steps"),
        ({"steps_of": "evil.py:run"}, "There is no schedule 'evil.py:run'"),
        ({"steps_of": "/etc/passwd.yaml"}, "There is no schedule"),
        ({"kind": "magic"}, "There is no guidance 'magic'"),
        ({"kind": AUTO, "worse": "/etc"}, "needs a second model"),
        ({"kind": AUTO, "worse": None}, "needs a second model"),
    ],
)
def test_what_is_not_offered_is_refused(changes, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        options_of(replace(SETTINGS, **changes), LIMITS, "x.png")


def test_a_classifier_has_to_be_there():
    with pytest.raises(UserError, match="start the app with --classifier FOLDER"):
        options_of(replace(SETTINGS, kind=CLASSIFIER), replace(LIMITS, classifier=None), "x.png")
