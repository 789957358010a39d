"""The command that starts the app."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

import app
from cardiff.app.options import AppOptions
from tests.conftest import ROOT


def test_it_listens_on_this_machine_alone_and_ends_with_its_files(models, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", ROOT / "app.py", "--model", models[0], "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    line = process.stdout.readline()
    found = re.fullmatch(r"Cardiff is at (http://127\.0\.0\.1:\d+/?) until Ctrl-C\.\n", line)
    assert found, line + process.stderr.read()
    assert b"Cardiff" in urlopen(found[1], timeout=20).read()
    assert [path for path in tmp_path.iterdir() if path.name.startswith("cardiff_app_")]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 128 + signal.SIGINT
    assert "Traceback" not in process.stderr.read()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("cardiff_app_")]
    process.stdout.close()
    process.stderr.close()


def refused(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(argv)
    assert ended.value.code in (1, 2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


def test_a_port_that_is_taken(models, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused(["--model", models[0], "--port", str(port)], capsys)
    assert f"--port {port} on 127.0.0.1 cannot be used" in error and "choose another, or 0 for any." in error


def test_a_model_that_is_not_there(capsys, tmp_path):
    assert "is not a folder" in refused(["--model", str(tmp_path / "none")], capsys)


def test_a_limit_that_lets_nobody_in(capsys):
    assert "--max_images" in refused(["--max_images", "0"], capsys)


def test_the_shipped_models_come_with_their_classifier(models):
    from cardiff.app.build import limits_of

    limits = limits_of(AppOptions())
    assert list(limits.models) == ["cars_32", "cars_32_unconditional"]
    assert limits.classifier == "cars_32_classifier"
    assert len(limits.models["cars_32"]) == 10 and limits.models["cars_32_unconditional"] == ()
    assert limits_of(AppOptions(model=models)).classifier is None
    assert Path(models[0]).is_dir()
