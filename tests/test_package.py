"""Cardiff as others install it: one name, nothing missing, the same modules as in a checkout, no more than needed."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import cardiff
from cardiff.cli import EXTRAS
from cardiff.layout import SHIPPED_DATA, find_data, shipped_config, shipped_configs
from cardiff.version import cardiff_version
from tests.conftest import ROOT, TINY_UNET

TOP_FOLDERS = ("schedulers", "pipelines")
NOT_SHIPPED = ("tests", "benchmarks", "docs", "data", ".*", "runs", "build", "*.egg-info", "__pycache__")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def python(code: str, folder: Path = ROOT, path: Path = ROOT) -> str:
    """What Python prints for this code in a folder, where the first place to import from is `path`."""
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    command = [sys.executable, "-I", "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_every_package_is_listed():
    """`find:` would not see what lies at the top of a checkout."""
    listed = set(setup_cfg()["options"]["packages"].split())
    folders = {".".join(file.relative_to(ROOT).parent.parts) for file in ROOT.glob("cardiff/**/*.py")}
    assert listed == folders | {"cardiff.schedulers", "cardiff.pipelines", "cardiff.scripts"}


@pytest.mark.parametrize(
    "imports",
    [
        "import cardiff.schedulers.spectrum, schedulers.spectrum",
        "import schedulers.spectrum, cardiff.schedulers.spectrum",
        "import schedulers, cardiff, schedulers.spectrum, cardiff.schedulers.spectrum",
    ],
)
def test_a_module_of_two_names_is_one(imports, preloaded, tmp_path):
    """In a process that has imported nothing of the project."""
    (tmp_path / "imports.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"{imports}\n"
        "from cardiff.schedulers import SCHEDULES\n"
        "import cardiff.pipelines.noisy_classifier, cardiff.scripts.sample, pipelines, sample\n"
        "assert SCHEDULES is schedulers.SCHEDULES and schedulers is cardiff.schedulers\n"
        "assert schedulers.spectrum is cardiff.schedulers.spectrum\n"
        "assert pipelines.NoisyClassifier is cardiff.pipelines.noisy_classifier.NoisyClassifier\n"
        "assert sample is cardiff.scripts.sample\n"
        "assert schedulers.spectrum.__spec__.name == schedulers.spectrum.__name__\n"
        "print('one')"
    )
    process = preloaded.start(tmp_path / "imports.py", cwd=ROOT, env=dict(os.environ))
    assert process.communicate(timeout=100) == ("one\n", "") and process.returncode == 0


def test_another_schedulers_is_left_alone(tmp_path):
    (tmp_path / "schedulers").mkdir()
    (tmp_path / "schedulers/__init__.py").write_text("WHOSE = 'theirs'\n")
    code = f"sys.path.append({str(ROOT)!r})\nimport cardiff.schedulers, schedulers\n"
    code += "print(schedulers.WHOSE, 'linear' in cardiff.schedulers.SCHEDULES)"
    assert python(code, tmp_path, tmp_path) == "theirs True\n"


def test_shipped_configurations_have_bare_names():
    assert shipped_configs() == sorted(file.stem for file in ROOT.glob("configs/*.yaml"))
    for name in shipped_configs():
        assert shipped_config(name) == shipped_config(f"{name}.yaml") == ROOT / "configs" / f"{name}.yaml"
    assert shipped_config("digits") is None
    assert shipped_config("../setup.cfg") is None


@pytest.mark.parametrize("name", ["digits_16_conditional", "cars_32_conditional"])
def test_shipped_data_are_found_from_anywhere(name, tmp_path, monkeypatch):
    shipped = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())["data"]["data_files"]
    monkeypatch.chdir(ROOT)
    assert find_data(shipped) == shipped
    monkeypatch.chdir(tmp_path)
    assert find_data(shipped) == str(ROOT / shipped)
    assert find_data("setup.cfg") == "setup.cfg"
    (tmp_path / "data").mkdir()
    (tmp_path / shipped).touch()
    assert find_data(shipped) == shipped  # what lies here comes first


def test_every_extra_is_named_where_it_is_missing():
    modules = {"scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}
    listed = {}
    for extra in ("train", "evaluate", "analysis", "app", "video"):
        for line in setup_cfg()["options.extras_require"][extra].split():
            name = re.match(r"[\w-]+", line)[0]
            if name != "cardiff":
                listed[modules.get(name, name)] = extra
    assert {**listed, "pyarrow": "train"} == EXTRAS  # datasets brings pyarrow


def test_loading_drawing_and_publishing_need_no_extra(tmp_path):
    old = ROOT / "tests/old_folders"
    guided = ["--model", str(old / "conditional"), "--classifier", str(old / "classifier"), "--classifier_scale", "1"]
    python(
        f"sys.modules.update(dict.fromkeys({list(EXTRAS)}))\n"
        "from cardiff.__main__ import main\n"
        f"main(['sample', *{guided}, '--num_images', '1', '--steps', '1', '--output', {str(tmp_path / 'drawn')!r}])\n"
        f"main(['publish', '--model', {str(old / 'conditional')!r}, '--output', {str(tmp_path / 'card')!r}])"
    )
    assert (tmp_path / "drawn/000000.png").exists() and (tmp_path / "card/README.md").exists()


def test_a_missing_extra_is_one_sentence():
    code = "import sys; sys.modules['torch_fidelity'] = None; from cardiff.__main__ import main; "
    command = [sys.executable, "-c", f"{code}main(['evaluate', '--images', 'x', '--output', 'y'])"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("which is not installed: pip install 'cardiff[evaluate]'.")


def test_version_and_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("cardiff.version.TOP", tmp_path)
    version = cardiff_version.__wrapped__
    assert version() == cardiff.__version__
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    file = tmp_path / "file"
    file.touch()
    for command in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch(re.escape(cardiff.__version__) + r"\+g[0-9a-f]{12}", version())
    (tmp_path / "untracked").touch()
    assert "modified" not in version()
    file.write_text("changed")
    assert version().endswith(".modified")
    monkeypatch.setattr("cardiff.version.IS_CHECKOUT", False)
    assert version() == cardiff.__version__


def test_files_that_name_the_version():
    assert re.search(rf"^## {re.escape(cardiff.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == cardiff.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's content, built from a copy of the checkout, because setuptools leaves files behind."""
    source, target = tmp_path_factory.mktemp("source") / "cardiff", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    shutil.copytree(ROOT / "cardiff/data", source / "cardiff/data", dirs_exist_ok=True)
    shutil.copytree(ROOT / "data", source / "data")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, timeout=300)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as file:
        file.extractall(target / "content")
    return target / "content"


@pytest.fixture
def busy_folder(tmp_path):
    """A folder with packages of its own that have the names of ours."""
    for name in (*TOP_FOLDERS, "tests", "scripts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} of the user')\n")
    return tmp_path


@pytest.mark.wheel
def test_the_wheel_has_one_name_and_everything(wheel):
    (name,) = (path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info"))
    assert name == "cardiff"
    expected = {f.relative_to(ROOT).as_posix() for f in ROOT.glob("cardiff/**/*.py")}
    expected |= {"cardiff/py.typed", "cardiff/hub/space_app.txt"}
    expected |= {
        f"cardiff/{f.relative_to(ROOT).as_posix()}" for name in TOP_FOLDERS for f in ROOT.glob(f"{name}/*.py")
    }
    expected |= {f"cardiff/scripts/{f.name}" for f in ROOT.glob("*.py")}
    expected |= {f"cardiff/scripts/{f.relative_to(ROOT).as_posix()}" for f in ROOT.glob("configs/**/*.yaml")}
    expected |= {f"cardiff/scripts/{name}" for name in SHIPPED_DATA}
    expected |= {f"cardiff/scripts/{f.relative_to(ROOT).as_posix()}" for f in ROOT.glob("data/licences/*")}
    expected |= {f"cardiff/scripts/{f.relative_to(ROOT).as_posix()}" for f in ROOT.glob("models/*/**/*.*")}
    assert {f.relative_to(wheel).as_posix() for f in wheel.glob("cardiff/**/*") if f.is_file()} == expected
    (licence,) = wheel.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text()


@pytest.mark.wheel
def test_every_module_of_the_wheel_can_be_imported(wheel, busy_folder):
    files = [file.relative_to(wheel).with_suffix("") for file in wheel.glob("cardiff/**/*.py")]
    modules = sorted(".".join(file.parts).removesuffix(".__init__") for file in files)
    assert len(modules) > 90
    code = f"sys.path.append('')\nimport importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += "print({module.__file__ for name, module in sys.modules.items() if name.startswith('cardiff.') and "
    code += f"not (module.__file__ or {str(wheel)!r}).startswith({str(wheel)!r})}})"
    assert python(code, busy_folder, wheel) == "set()\n"


@pytest.mark.wheel
def test_the_installed_command_trains_samples_evaluates_and_publishes(wheel, busy_folder):
    def run(*argv: str) -> None:
        command = [sys.executable, "-m", "cardiff", *argv]
        subprocess.run(command, cwd=busy_folder, env={**os.environ, "PYTHONPATH": str(wheel)}, check=True, timeout=300)

    digits = ["--config", "digits_16_conditional", *TINY_UNET, "--train.max_steps", "2", "--train.sample_every", "0"]
    run("train-conditional", *digits, "--output_dir", "runs/digits")
    run("sample", "--model", "runs/digits", "--num_images", "4", "--steps", "2", "--output", "drawn")
    measured = ["--network", "pixels", "--metrics", "fid", "--output", "report"]
    run("evaluate", "--images", "drawn", "--reference", "digits_16_conditional", *measured)
    run("publish", "--model", "runs/digits", "--output", "preview")
    assert {"README.md", "pipeline_class_conditional.py", "run.json"} <= {
        f.name for f in busy_folder.glob("preview/*")
    }
    run(
        "sample", "--labels", "beetle", "--num_images", "1", "--steps", "2", "--grid", "beetle.png"
    )  # the shipped model
    assert (busy_folder / "beetle.png").exists()
    record = (busy_folder / "runs/digits/run.json").read_text()
    assert f'"cardiff": "{cardiff.__version__}"' in record and '"data/digits.parquet"' in record
    assert str(wheel) not in record
