"""Options from the command line and from a file."""

import pytest

from cardiff.cli import parse_options
from cardiff.sampling.options import SampleOptions


def test_options_from_the_command_line_and_a_file(tmp_path):
    (tmp_path / "options.yaml").write_text("model: m\noutput: o\nsteps: 7\n")
    expected = SampleOptions("m", output="o", steps=9, labels="0,3,seven", guidance_scale=[0, 1.5])
    argv = ["--config", str(tmp_path / "options.yaml"), "--steps", "9", "--labels", "0,3,seven"]
    assert parse_options(SampleOptions, [*argv, "--guidance_scale", "0,1.5"], "test") == expected


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model", "m", "--stpes", "3"], "there is no option 'stpes'; did you mean 'steps'?"),
        (["--model", "m", "--steps", "many"], "steps is 'many', but must be int."),
        (
            ["--model", "m", "--guidance_scale", "much"],
            "guidance_scale is 'much', but must be a number, or",
        ),
        (
            ["--model", "m", "--classifier_scale", "1,"],
            "classifier_scale is '1,', but must be a number, or",
        ),
        (["--model", "m", "--guidance_scale", "1,nan"], "--guidance_scale is [1.0, nan], but each of them must be a"),
    ],
)
def test_mistakes_on_the_command_line(argv, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(SampleOptions, argv, "test")
    assert sentence in capsys.readouterr().err
