"""The notebooks: stored with what a reader needs and nothing else, and they run; what objects show in a notebook."""

import ast
import base64
import importlib.util
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cardiff
from cardiff.data.store import ImageStore
from cardiff.schedulers import schedule_from_function
from tests.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
LARGEST = 1_000_000
"""Bytes of a notebook with its outputs."""
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:work|tmp|home|root|Users|usr|opt|content|mnt)\b")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def shows(cell: dict) -> bool:
    """Whether the cell ends with a value, or prints or draws something outside the functions it defines."""
    body = ast.parse(source(cell)).body
    if isinstance(body[-1], ast.Expr) and not isinstance(body[-1].value, ast.Call):
        return True
    running = [node for node in body if not isinstance(node, ast.FunctionDef)]
    calls = [node for part in running for node in ast.walk(part) if isinstance(node, ast.Call)]
    showing = {"print", "plt.show", "show", "cardiff.show", "strip", "Image", "Markdown"}
    return any(ast.unparse(call.func) in showing for call in calls)


def picture(output: dict) -> Image.Image | None:
    encoded = output.get("data", {}).get("image/png")
    return None if encoded is None else Image.open(BytesIO(base64.b64decode("".join(encoded))))


# What is stored.


def test_both_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["assignment", "quickstart"]


@every_notebook
def test_it_is_a_notebook_of_format_4(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and content["nbformat_minor"] >= 5
    assert content["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    assert {cell["cell_type"] for cell in content["cells"]} == {"code", "markdown"}
    assert all(cell["metadata"] == {} for cell in content["cells"]), "no times, no settings of an editor"


@every_notebook
def test_it_is_small(path):
    assert path.stat().st_size < LARGEST


@every_notebook
def test_it_was_run_from_the_first_cell_to_the_last(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    missing = [source(cell)[:80] for cell in code if shows(cell) and not cell["outputs"]]
    assert not missing, f"no output is stored of {missing}"


@every_notebook
def test_outputs_are_for_readers(path):
    for output in outputs(path):
        assert output["output_type"] in ("stream", "display_data", "execute_result"), output
        assert output.get("name") != "stderr", "a warning or a progress bar"
        assert output.get("data", {}).keys() <= {"text/plain", "text/html", "text/markdown", "image/png"}
        text = json.dumps(output["data"] if "data" in output else output["text"])
        assert "Warning" not in text and not re.search(r"\d%\|", text)


@every_notebook
def test_no_path_of_a_machine(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    found = [line for line in json.dumps(content, indent=0, ensure_ascii=False).splitlines() if ABSOLUTE.search(line)]
    assert found == []


@pytest.mark.parametrize("text", ["in /tmp/x", "PosixPath('/root/.cache')", '"/home/me"'])
def test_a_path_of_a_machine_is_noticed(text):
    assert ABSOLUTE.search(text) and not ABSOLUTE.search("cardiff/home, https://example.org/opt/x and a/tmp")


@every_notebook
def test_pictures_are_pictures(path):
    pictures = [found for found in map(picture, outputs(path)) if found is not None]
    assert len(pictures) >= 3
    for found in pictures:
        assert 100 < found.width < 1200 and 60 < found.height < 1200
        assert np.asarray(found.convert("L")).std() > 5, "an empty picture"


# What is written.


@every_notebook
def test_cells_compile_and_are_short(path):
    for cell in cells(path, "code"):
        compile(source(cell), path.name, "exec", dont_inherit=True)
        assert len(source(cell).splitlines()) <= 30


@every_notebook
def test_imports_resolve(path):
    trees = [ast.parse(source(cell)) for cell in cells(path, "code")]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cardiff":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in (name.split(".")[0] for name in names if name):
                # IPython runs the notebook, and need not be where the tests run.
                assert name == "IPython" or importlib.util.find_spec(name) is not None, name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cardiff":
            assert node.attr in cardiff.API, node.attr


@every_notebook
def test_pictures_have_captions(path):
    """After a picture comes a text whose first paragraph is in italics and says what to see."""
    content = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell, following in zip(content, content[1:]):
        drawn = any(picture(output) is not None for output in cell.get("outputs", []))
        if drawn:
            assert following["cell_type"] == "markdown" and source(following).startswith("*"), source(cell)[-80:]


@every_notebook
def test_links_exist(path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", "\n".join(source(cell) for cell in cells(path, "markdown"))):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_documentation_links_to_them():
    for page in ("docs/assignment.md", "README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert all(f"notebooks/{path.name}" in text for path in NOTEBOOKS), page


@pytest.mark.slow
@every_notebook
def test_it_runs(path, tmp_path):
    """From the first cell to the last in an empty folder; its own assertions compare it with the library."""
    for module in ("nbclient", "nbformat", "ipykernel", "matplotlib_inline"):
        pytest.importorskip(module, reason=f"running a notebook needs {module}: pip install 'cardiff[develop]'")
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks/execute.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    notebook = tool.cleaned(tool.execute(path, tmp_path))
    stored = cells(path, "code")
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in stored]
    assert [[output["output_type"] for output in cell.outputs] for cell in ran] == kinds


# What objects show in a notebook.


def test_a_schedule_shows_its_arguments_and_no_betas():
    shown = cardiff.make_schedule({"name": "sigmoid", "tau": 0.5, "num_train_timesteps": 100})._repr_html_()
    assert "<b>SigmoidScheduler</b>" in shown and "<tr><th>tau</th><td>0.5</td></tr>" in shown
    assert "in 100 steps" in shown and "trained_betas" not in shown and len(shown) < 2000


def test_a_schedule_of_ones_own_is_escaped():
    kind = schedule_from_function(lambda t, tag="<script>": 1 - 0.999 * t, name="<script>alert(1)</script>")
    shown = kind()._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 2


def test_a_schedule_that_ends_in_pure_noise_is_shown():
    schedule = cardiff.make_schedule(
        {"name": "cosine", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    )
    assert "to -inf in 1,000 steps" in schedule._repr_html_()


def test_long_values_are_cut():
    powers = [[0.123456789 + k] for k in range(6)]
    shown = cardiff.make_schedule({"name": "spectral", "octave_powers": powers, "resolution": 32})._repr_html_()
    assert max(map(len, re.findall("<td>(.*?)</td>", shown))) == 80 and "…</td>" in shown


def test_a_configuration_shows_what_it_runs():
    config = cardiff.configure("digits_16_conditional", "runs/<script>", **{"train.max_steps": 12})
    shown = config._repr_html_()
    assert "<script>" not in shown and "conditional run in runs/&lt;script&gt;: 16×16 images" in shown
    assert "schedule cosine, 12 steps, batches of 64" in shown and "label_dropout: 0.1" in shown
    epochs = cardiff.configure("cars_32_conditional", "runs/cars")._repr_html_()
    assert "100 epochs" in epochs


def test_a_store_shows_its_classes(tmp_path):
    images = np.zeros((3, 1, 8, 8), np.uint8)
    store = ImageStore(tmp_path, images, np.array([0, 1, 0]), ["<script>", "b"], [])
    shown = store._repr_html_()
    assert shown.startswith("<b>3 images of 8×8 pixels, channels: 1</b>") and "<script>" not in shown
    assert "<tr><th>&lt;script&gt;</th><td>2</td></tr><tr><th>b</th><td>1</td></tr>" in shown
    assert ImageStore(tmp_path, images, None, [], [])._repr_html_() == "<b>3 images of 8×8 pixels, channels: 1</b>"
