"""YAML files of any content are read or refused in one sentence, by every command."""

import pytest

import analyze_schedules
import publish
import sample
import train_conditional
from cardiff.config.yaml_file import LARGEST_YAML, read_sections, read_yaml
from cardiff.errors import UserError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
BAD = {
    "deep": ("a: " + "[" * 20_000 + "]" * 20_000, "is nested too deeply to be read"),
    "no text": (b"\xff\xfe\x00", "is not a YAML file"),
    "a laugh": (LAUGHS, "expands to too many values"),
    "a circle": ("a: &a [*a]", "(expands to too many values|is nested too deeply)"),
    "large": ("a: " + "x" * LARGEST_YAML, "is larger than 1 MiB"),
    "a list": ("[1, 2]", "has no sections"),
    "empty": ("", "has no sections"),
    "a word": ("word", "has no sections"),
    "code": ("a: !!python/object/apply:os.system ['true']", "is not a YAML file"),
    "half": ("a: [1,", "is not a YAML file"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_what_is_refused(content, sentence, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"a.yaml {sentence}"):
        read_sections(file)


@pytest.mark.parametrize("main", [sample.main, train_conditional.main, analyze_schedules.main, publish.main])
@pytest.mark.parametrize("content", ["a: " + "[" * 4000 + "]" * 4000, BAD["half"][0], BAD["no text"][0], ""])
def test_every_command_says_it_in_one_sentence(main, content, tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for option in (["--config", str(file)], [f"--config={file}"], ["--config", str(tmp_path / "none.yaml")]):
        with pytest.raises(SystemExit) as stop:
            main(option)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1
    assert "none.yaml cannot be read: No such file or directory." in error


def test_references_may_be_used(tmp_path):
    (tmp_path / "a.yaml").write_text("train: &t {seed: 1}\nother: {<<: *t, more: [é, 2.5]}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"train": {"seed": 1}, "other": {"seed": 1, "more": ["é", 2.5]}}
