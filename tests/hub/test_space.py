"""A Space for a published model: on a Hub of the loopback address, in a folder, and running."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from gradio_client import Client
from PIL import Image

import publish as command
from cardiff.hub.options import PublishOptions
from cardiff.hub.space import NEEDED, publish_space, requirements
from tests.support.hub_server import TOKENS
from tests.support.pushed import push

FILES = {"app.py", "pipeline_class_conditional.py", "requirements.txt", "README.md"}


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_space_is_pushed(hub, folder):
    push(folder)
    made = publish_space(PublishOptions(model="user/model", space="demo"))
    assert made == f"Published {hub.url}/spaces/user/demo"
    files = hub.repositories["spaces/user/demo"].files()
    assert set(files) == FILES | {".gitattributes"}
    front = front_matter(files["README.md"].decode())
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and front["models"] == ["user/model"]
    assert re.search(r'^MODEL = "user/model"$|^MODEL = \'user/model\'$', files["app.py"].decode(), re.M)
    created = next(r for r in hub.requests if r.path == "/api/repos/create" and b"space" in r.body)
    assert b'"sdk":"gradio"' in created.body.replace(b" ", b"")
    # Again: the same Space has a new commit, and no error.
    publish_space(PublishOptions(model="user/model", space="demo", hub_license="mit"))
    assert front_matter(hub.repositories["spaces/user/demo"].files()["README.md"].decode())["license"] == "mit"


def test_a_space_asks_for_what_it_imports():
    found = requirements()
    assert [re.split("[<>=]", line)[0] for line in found] == list(NEEDED)
    assert all(">=" in line for line in found)


def test_a_space_in_a_folder_runs(hub, folder, tmp_path):
    """Where the project is unknown: the app, its pipeline and the published model."""
    push(folder)
    told = publish_space(PublishOptions(model="user/model", space="demo", output=str(tmp_path / "space")))
    assert "nothing was uploaded" in told and "spaces/user/demo" not in hub.repositories
    assert {path.name for path in (tmp_path / "space").iterdir()} == FILES
    start = (
        "import sys; sys.modules.update(dict.fromkeys(['cardiff', 'pipelines', 'schedulers'])); sys.path[:0] = ['.']; "
        "import app; app.app.queue().launch(prevent_thread_lock=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-u", "-c", start],
        cwd=tmp_path / "space",
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://127\S+", line):
                break
        else:
            pytest.fail("".join(lines))
        client = Client(found[0], verbose=False)
        images = client.predict(["bee", "cat, black"], 2, 1.5, 4, 3, api_name="/draw")
        again = client.predict(["bee", "cat, black"], 2, 1.5, 4, 3, api_name="/draw")
        assert [image["caption"] for image in images] == [
            "bee seed 3",
            "bee seed 4",
            "cat, black seed 5",
            "cat, black seed 6",
        ]
        first, same = (np.asarray(Image.open(found[0]["image"])) for found in (images, again))
        assert np.array_equal(first, same) and first.shape[0] == 256
        client.close()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "folder", "space": "demo"}, "give the repository to which it was published as --hub_model_id"),
        ({"model": "folder", "space": "demo", "hub_model_id": "name"}, "--hub_model_id OWNER/NAME"),
        ({"model": "user/model", "space": "a b"}, "--space a b is not a valid repository name"),
        ({"model": "user/model", "space": "demo", "metrics": "x"}, "--metrics has no effect with --space"),
        ({"model": "user/model", "space": "demo", "variants": "fp16"}, "have no effect with --space"),
        ({"model": "user/none", "space": "demo"}, "user/none is neither a folder nor a Hub repository"),
    ],
)
def test_what_cannot_be_shown_is_refused(options, message, hub, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    options = {**options, "model": options["model"].replace("folder", str(folder))}
    argv = [part for key, value in options.items() for part in (f"--{key}", value)]
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code != 0
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
    assert not [name for name in hub.repositories if name.startswith("spaces/")]


def test_a_space_without_a_right_to_write(hub, folder, monkeypatch, capsys):
    push(folder)
    reader = next(token for token, right in TOKENS.items() if right == "read")
    monkeypatch.setenv("HF_TOKEN", reader)
    with pytest.raises(SystemExit):
        command.main(["--model", "user/model", "--space", "demo"])
    error = capsys.readouterr().err
    assert "demo:" in error and "Traceback" not in error


def test_a_folder_with_files_is_left_alone(hub, folder, tmp_path, capsys):
    push(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        command.main(["--model", "user/model", "--space", "demo", "--output", str(tmp_path / "full")])
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in Path(tmp_path / "full").iterdir()] == ["mine.txt"]
