"""The public API: its examples run, its names exist, and its page is what the docstrings say."""

import ast
import doctest
import importlib.util
import subprocess
import sys

import pytest

import cardiff
from tests.conftest import ROOT, TINY_UNET


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(cardiff, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 10 and result.failed == 0


def test_importing_it_imports_nothing_else():
    code = "import sys, cardiff; print({'torch', 'diffusers', 'datasets', 'numpy'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found == "set()\n"


def test_an_editor_sees_what_there_is():
    """The imports for type checkers are those that are made."""
    tree = ast.parse((ROOT / "cardiff/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.asname or alias.name: f"{node.module.removeprefix('cardiff.')}.{alias.name}"
        for node in block.body
        for alias in node.names
    }
    assert seen == cardiff.API
    for name in cardiff.API:
        assert callable(getattr(cardiff, name)), name
    with pytest.raises(AttributeError, match="'cardiff' has no attribute 'draws'"):
        cardiff.draws  # noqa: B018


def test_the_page_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    assert make_api.FILE.read_text(encoding="utf-8") == make_api.page(), "run python docs/make_api.py"


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        ("digits_16_conditonal", {}, "did you mean 'digits_16_conditional'?"),
        ("digits_16_conditional", {"train.max_step": 2}, "there is no option 'train.max_step'; did you mean"),
        ("digits_16_conditional", {"train.max_steps": -1}, "train.max_steps is -1"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_a_user_error(config, options, sentence, tmp_path):
    with pytest.raises(cardiff.UserError) as error:
        cardiff.configure(config, str(tmp_path), **options)
    assert sentence in str(error.value)


def test_a_configuration_is_that_of_the_command_line(tmp_path):
    from cardiff.config.run import parse_run

    argv = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), "--output_dir", str(tmp_path), *TINY_UNET]
    options = {name.removeprefix("--"): value for name, value in zip(TINY_UNET[::2], TINY_UNET[1::2], strict=True)}
    found = cardiff.configure("digits_16_conditional", str(tmp_path), **options)
    assert found == parse_run(argv, kind="conditional", description="")
