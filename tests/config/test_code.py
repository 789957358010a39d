"""A YAML file runs no code that the command line does not show, whichever command reads it."""

import pytest

import analyze_schedules
import sample
from cardiff.config.code import allows_code, refuse_hidden_code
from cardiff.config.run import configure
from cardiff.errors import UserError
from tests.support.parsing import parse

HIDDEN = "mine.yaml names code that is not on the command line, .*mine.py:straight: give .* on the"


@pytest.fixture
def code(tmp_path):
    """A function whose file leaves a mark when it is run, and a configuration that names it."""
    file, mark = tmp_path / "mine.py", tmp_path / "executed"
    file.write_text(f"open({str(mark)!r}, 'w')\ndef straight(t): return 1 - 0.999 * t\n")
    (tmp_path / "mine.yaml").write_text(f"scheduler: {{name: '{file}:straight'}}\n")
    return f"{file}:straight", tmp_path / "mine.yaml", mark


def test_a_training_run(code, capsys):
    name, config, mark = code
    with pytest.raises(SystemExit) as stop:
        parse("--config", str(config))
    assert stop.value.code == 2 and not mark.exists()
    error = capsys.readouterr().err
    assert f"mine.yaml names code that is not on the command line, {name}" in error and error.count("\n") == 1
    for shown in (["--scheduler.name", name], [f"--scheduler.name={name}"], ["--allow_code"], ["--allow_code=true"]):
        assert parse("--config", str(config), *shown).scheduler["name"] == name
        mark.unlink()


def test_a_file_cannot_allow_itself(code, capsys):
    _, config, mark = code
    config.write_text(config.read_text() + "allow_code: true\n")
    for more in ([], ["--allow_code"]):
        with pytest.raises(SystemExit):
            parse("--config", str(config), *more)
        assert "sets allow_code, which is valid only on the command line" in capsys.readouterr().err
    config.write_text("allow_code: true\n")
    with pytest.raises(SystemExit):
        sample.main(["--config", str(config), "--model", "m", "--grid", "g.png"])
    assert "sets allow_code" in capsys.readouterr().err and not mark.exists()


def test_a_notebook(code, tmp_path):
    name, config, mark = code
    config.write_text(config.read_text() + "kind: conditional\n")
    with pytest.raises(UserError, match=HIDDEN):
        configure(str(config), str(tmp_path / "run"))
    assert not mark.exists()
    for options in ({"allow_code": True}, {"scheduler.name": name}):
        assert configure(str(config), str(tmp_path / "run"), **options).scheduler["name"] == name


def test_sampling_at_the_levels_of_a_file(code, tmp_path):
    from cardiff.config.schedules_by_name import section_of

    name, config, mark = code
    with pytest.raises(UserError, match=HIDDEN):
        section_of(str(config))
    assert section_of(str(config), allow_code=True) == {"name": name} == section_of(name)
    assert not mark.exists()  # it only says what it is


def test_a_function_of_guidance_in_the_file_of_a_sampling(code, tmp_path, capsys):
    _, config, mark = code
    config.write_text(f"guidance_schedule: '{tmp_path}/mine.py:straight'\n")
    with pytest.raises(SystemExit):
        sample.main(["--config", str(config), "--model", str(tmp_path), "--grid", str(tmp_path / "g.png")])
    assert "names code that is not on the command line" in capsys.readouterr().err and not mark.exists()


def test_an_analysis(code, tmp_path, capsys):
    _, config, mark = code
    for options in (["--config", str(config)], ["--schedules", f"linear,{config}"]):
        with pytest.raises(SystemExit):
            analyze_schedules.main([*options, "--output", str(tmp_path / "out")])
        assert "names code that is not on the command line" in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [{"a": {"b": ["x", "f.py:g"]}}, ["f.py:g"], {"name": "some/where/f.py:g"}])
def test_wherever_it_is_named(content):
    with pytest.raises(UserError, match="f.py:g"):
        refuse_hidden_code(content, "a.yaml", ["--config", "a.yaml"])
    refuse_hidden_code(content, "a.yaml", ["--allow_code"])


def test_what_is_not_code():
    refuse_hidden_code(
        {"a": "linear", "b": 3, "c": None, "d": "a.py", "e": "s3://x.py/y", "f": "index:3"}, "a.yaml", []
    )


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [([], False), (["--allow_code"], True), (["--allow_code", "--seed", "1"], True), (["--allow_code", "true"], True),
     (["--allow_code=false"], False), (["--allow_code", "False"], False)],
)  # fmt: skip
def test_what_the_command_line_says(argv, allowed):
    assert allows_code(argv) is allowed
