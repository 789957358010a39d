"""The `cardiff` command: its subcommands are the scripts, found and listed without importing what they need."""

import subprocess
import sys

import pytest
from tqdm.auto import tqdm

import cardiff
from cardiff.__main__ import COMMANDS, main
from cardiff.cli import one_sentence_errors
from cardiff.errors import UserError
from cardiff.layout import shipped_configs
from tests.conftest import ROOT


def test_every_script_is_a_command():
    assert sorted(COMMANDS) == sorted(file.stem.replace("_", "-") for file in ROOT.glob("*.py"))


def test_help_lists_every_command_with_a_line(capsys):
    for argv in ([], ["--help"], ["-h"]):
        main(argv)
        lines = capsys.readouterr().out.splitlines()
        assert all(
            any(line.startswith(f"  {command} ") and len(line) <= 119 for line in lines) for command in COMMANDS
        )


def test_the_version_is_said(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith(f"cardiff {cardiff.__version__}")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sampel", "did you mean 'sample'?"),
        ("train_conditional.py", "did you mean 'train-conditional'?"),
        ("?", "choose"),
    ],
)
def test_an_unknown_command_is_one_sentence(name, remedy, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: there is no command {name!r}; {remedy}")


OTHER_SCHEDULES = (["--scheduler.name", "spectral"], ["--config", "cifar10_32_conditional"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in COMMANDS),
        *(["train-conditional", *options, "--help"] for options in OTHER_SCHEDULES),
    ],
)
def test_help_comes_before_torch(argv):
    code = "import sys; from cardiff.__main__ import main\n"
    code += (
        f"try: main({argv})\nexcept SystemExit: pass\nassert not {{'torch', 'numpy', 'diffusers'}} & {{*sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_a_subcommand_is_called_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cardiff"])
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--help"])
    assert "usage: cardiff demo " in capsys.readouterr().out


@pytest.fixture
def received():
    """A script's main that gives back its command line."""
    return one_sentence_errors(lambda argv: argv)


def test_shipped_configurations_are_known_by_name(received, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    file = "configs/digits_16_conditional.yaml"
    assert received(["--config", "digits_16_conditional"]) == ["--config", file]
    assert received(["--config=digits_16_conditional.yaml", "--seed", 1]) == [f"--config={file}", "--seed", "1"]
    assert received(["--config", file, "--config", f"./{file}"]) == ["--config", file, "--config", f"./{file}"]
    monkeypatch.chdir(tmp_path)
    assert received(["--config", "digits_16_conditional"]) == ["--config", str(ROOT / file)]
    (tmp_path / "digits_16_conditional").write_text("data: {}")
    assert received(["--config", "digits_16_conditional"]) == ["--config", "digits_16_conditional"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("digits_16_conditonal", "did you mean 'digits_16_conditional'?"),
        ("zzz", f"choose from {shipped_configs()[0]}, "),
    ],
)
def test_an_unknown_configuration_is_one_sentence(received, name, remedy, capsys):
    with pytest.raises(SystemExit, match="1"):
        received(["--config", name])
    (line,) = capsys.readouterr().err.splitlines()
    start = f"error: --config {name} is neither a file nor the name of a shipped configuration; "
    assert line.startswith(start + remedy)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(28, "No space left on device", "out/a.png"),
            "out/a.png: No space left on device: free some space, or use another disk",
        ),
        (OSError(28, "No space left on device"), "No space left on device: free some space, or use another disk"),
        (OSError(30, "Read-only file system", "a"), "a: Read-only file system: change the permissions"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "a/b: Not a directory: remove what is in its place"),
    ],
)
def test_what_the_disk_does_not_do_is_one_sentence(error, sentence, capsys, monkeypatch):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        one_sentence_errors(main)([])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}") and said.count("\n") == 1
    monkeypatch.setenv("CARDIFF_DEBUG", "1")
    with pytest.raises(type(error)):
        one_sentence_errors(main)([])


def test_a_sentence_begins_a_line_below_an_open_bar(capsys):
    bars = []

    @one_sentence_errors
    def command(argv):
        bars.append(tqdm(total=3, desc="training"))
        raise UserError("The disk is full.")

    with pytest.raises(SystemExit):
        command([])
    assert "error: The disk is full." in capsys.readouterr().err.splitlines()
    assert bars[0].disable  # closed


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory", "a"), OSError("a"), ValueError("a")]
)
def test_a_bug_keeps_its_traceback_and_says_where_to_report_it(error):
    def main(argv):
        raise error

    with pytest.raises(type(error)) as raised:
        one_sentence_errors(main)([])
    assert "report it" in raised.value.__notes__[0]
