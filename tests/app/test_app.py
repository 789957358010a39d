"""The app over its own interface, as a browser uses it."""

import errno
import json
import shlex
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

import sample
from cardiff.app.compare_tab import save_comparison
from cardiff.app.settings import CFG_PLUS_PLUS, KINDS, NONE, OWN_STEPS, PLAIN, PROGRAM
from cardiff.app.site import sentence_of
from cardiff.errors import UserError
from cardiff.sampling.grid import Grid


@pytest.fixture
def client(site):
    client = Client(site[0], verbose=False)
    yield client
    client.close()


def what(models, labels=("bee", "cat, black"), columns=2, model=0, seed=0):
    return [models[model], list(labels), "", columns, seed]


def how(kind=NONE, scale=2.0, steps=3, solver="dpm", steps_of=OWN_STEPS):
    return [kind, scale, -1.0, 2.0, 0.7, 0.995, None, 1.0, solver, steps, steps_of]


@pytest.mark.parametrize(
    ("choice", "settings"),
    [
        ({}, {}),
        ({"labels": ()}, {"kind": PLAIN, "scale": 3.5}),
        ({"labels": (), "model": 1, "columns": 5}, {"solver": "ddpm", "steps_of": "spectral, pixels"}),
    ],
)
def test_the_command_makes_the_same_bytes(choice, settings, client, models, tmp_path, monkeypatch):
    message, picture, command, files, table = client.predict(
        *what(models, **choice), *how(**settings), api_name="/draw"
    )
    monkeypatch.chdir(tmp_path)
    sample.main(shlex.split(command.removeprefix(PROGRAM)))
    (made,) = tmp_path.iterdir()
    assert made.read_bytes() == Path(picture).read_bytes() == Path(files[0]).read_bytes()
    entries = [json.loads(line) for line in Path(files[1]).read_text().splitlines()]
    assert len(entries) == len(table["data"])
    assert f"{len(entries)} images, 3 steps." in message
    assert {entry["command"] for entry in entries} == {command}


@pytest.mark.parametrize(("ending", "kind"), [("webp", PLAIN), ("gif", CFG_PLUS_PLUS), ("mp4", PLAIN)])
def test_the_command_makes_the_same_animation(ending, kind, client, models, tmp_path, monkeypatch):
    given = *what(models, columns=1), *how(kind=kind, scale=0.6)
    message, picture, slider, command, file = client.predict(ending, *given, api_name="/watch")
    monkeypatch.chdir(tmp_path)
    sample.main(shlex.split(command.removeprefix(PROGRAM)))
    assert (tmp_path / f"steps.{ending}").read_bytes() == Path(file).read_bytes()
    if ending != "mp4":
        with Image.open(file) as animation:
            assert animation.n_frames == 4  # and the noise
    assert "3 steps" in message and Image.open(picture).size[0] > 300
    assert slider["maximum"] == slider["value"] == 3


def test_too_many_images_to_watch_are_a_sentence(client, models):
    given = *what(models, labels=("bee",), columns=13), *how(kind=PLAIN)
    assert "13 images were asked for" in client.predict("gif", *given, api_name="/watch")[0]


def test_the_manifest_says_what_each_image_is(client, models):
    *_, files, table = client.predict(*what(models), *how(kind=PLAIN), api_name="/draw")
    entries = [json.loads(line) for line in Path(files[1]).read_text().splitlines()]
    assert [(e["name"], e["column"], e["index"]) for e in entries] == [
        *(("bee", 0, 0), ("bee", 1, 1)),
        *(("cat, black", 0, 2), ("cat, black", 1, 3)),
    ]
    assert entries[0]["evaluations"] == {"unet": 6}  # with and without the label, three steps
    assert table["data"][3][:3] == ["cat, black", "1", "3"]
    assert table["data"][3][4] == "6 of unet"


@pytest.mark.parametrize(
    ("choice", "settings", "sentence"),
    [
        ({"columns": 9}, {}, "18 images were asked for, and 1 to 12 can be drawn here"),
        ({}, {"kind": "CFG++", "scale": 3.0}, "must lie between 0 and 1 with --cfg_plus_plus"),
        ({"labels": (), "model": 1}, {"kind": PLAIN}, "This model is unconditional"),
    ],
)
def test_wrong_input_is_a_sentence(choice, settings, sentence, client, models):
    message, picture, *_ = client.predict(*what(models, **choice), *how(**settings), api_name="/draw")
    assert 'role="alert"' in message and sentence in message
    assert "Traceback" not in message
    assert picture is None or isinstance(picture, dict)  # nothing is shown


def test_a_mixture_is_text_and_not_a_file(client, models, tmp_path):
    (tmp_path / "secret.txt").write_text("bee")
    given = [models[0], [], f"@{tmp_path}/secret.txt", 1, 0]
    assert "must name classes" in client.predict(*given, *how(), api_name="/draw")[0]
    given[2] = "<b>&"
    message = client.predict(*given, *how(), api_name="/draw")[0]
    assert "&lt;b&gt;&amp;" in message and "<b>" not in message


def test_the_app_writes_below_its_folder_only(client, models, site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client.predict(*what(models), *how(), api_name="/draw")
    assert not list(tmp_path.iterdir())
    assert list(site[1].rglob("picture.png"))


def test_two_visitors_get_what_they_asked_for(site, models):
    found = {}

    def visit(seed):
        client = Client(site[0], verbose=False)
        found[seed] = client.predict(*what(models, seed=seed), *how(), api_name="/draw")[2]
        client.close()

    threads = [threading.Thread(target=visit, args=[seed]) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(f"--seed {seed}" in found[seed] for seed in (3, 4))


def test_a_second_drawing_in_a_tab_removes_the_files_of_the_first(client, models, site):
    for _ in range(2):
        client.predict(*what(models), *how(), api_name="/draw")
    (visitor,) = [
        folder for folder in (site[1] / "visitors").iterdir() if len(list(folder.rglob("picture.png"))) and folder.name
    ][-1:]
    assert len(list(visitor.rglob("picture.png"))) == 1


def test_both_sides_come_from_the_same_noise(client, models):
    same = client.predict(*what(models), *how(), *how(), api_name="/compare")
    assert "differ by 0.0 of 255" in same[0]
    other = client.predict(*what(models), *how(), *how(kind=PLAIN, scale=6.0), api_name="/compare")
    assert "differ by 0.0" not in other[0]
    first, second = other[2].splitlines()
    assert "--guidance_scale 6" in second and "--guidance_scale" not in first


def grid(value, size=4):
    return Grid(np.full((1, 2, size, size, 3), value, np.uint8), [[{}, {}]], ["ant"], 2, ["title"], 0)


def test_a_difference_is_half_of_it_around_grey(tmp_path):
    assert save_comparison([grid(10), grid(50)], tmp_path / "x.png") == pytest.approx(40)
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert {10, 50, 128 + 20} <= set(picture.ravel().tolist())
    with pytest.raises(UserError, match="different numbers or sizes"):
        save_comparison([grid(10), grid(10, size=8)], tmp_path / "x.png")


def test_noise_is_shown_and_measured(client):
    knots = json.dumps([9.0, 5.0, 2.0, 0.5, -1.0, -4.0, -11.0])
    message, strip, curves, table, yaml = client.predict(
        "digits, 16×16", 3, None, ["linear", "cosine"], 0.5, 0, knots, api_name="/noise"
    )
    assert message == ""
    assert [row[0] for row in table["data"]] == ["linear", "cosine", "yours"]
    assert "log_snr: [9.0, 5.0," in yaml
    assert Image.open(strip).size[1] > 300 and Image.open(curves).size[0] > 500


@pytest.mark.parametrize("knots", ["[1, 2]", "no", "null", "[5, 4, 3, 3, 2, 1, 0]"])
def test_knots_that_are_none_are_a_sentence(knots, client):
    message = client.predict("digits, 16×16", 3, None, ["linear"], 0.5, 0, knots, api_name="/noise")[0]
    assert "Each knot must lie below" in message


def test_a_visitor_can_stop(site, models):
    """The generator of a visitor who leaves is closed, and the next visitor's turn comes."""
    slow, quick = Client(site[0], verbose=False), Client(site[0], verbose=False)
    job = slow.submit(*what(models, columns=6), *how(solver="ddpm", steps=60), api_name="/draw")
    deadline = time.monotonic() + 30
    while not job.outputs() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.cancel()
    assert quick.predict(*what(models), *how(), api_name="/draw")[2]
    slow.close()
    quick.close()


def test_every_kind_of_guidance_is_offered():
    assert len(set(KINDS)) == 8


def test_a_full_disk_is_a_sentence_and_a_bug_is_none(capsys):
    full = sentence_of(OSError(errno.ENOSPC, "No space left on device", "picture.png"))
    assert full.startswith("The picture could not be written: picture.png: No space left on device")
    assert "Traceback" not in capsys.readouterr().err
    assert "terminal" in sentence_of(KeyError("secret")) and "secret" not in sentence_of(KeyError("secret"))
    assert "KeyError: 'secret'" in capsys.readouterr().err


def test_a_disk_that_is_full_does_not_end_the_app(client, models, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "picture.png")

    with monkeypatch.context() as patched:
        patched.setattr(Grid, "save", full)
        assert "No space left" in client.predict(*what(models), *how(), api_name="/draw")[0]
    assert client.predict(*what(models), *how(), api_name="/draw")[2]
