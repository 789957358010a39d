"""Sampled folders: what the manifest says, and that they can be continued and extended."""

import errno
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sample
from cardiff.diffusion.randomness import image_seed
from cardiff.errors import UserError
from cardiff.evaluation.images import read_folder
from cardiff.files import file_hash
from cardiff.hub.serialization import load_pipeline, save_pipeline, weights_file
from cardiff.sampling import folder as folders
from cardiff.sampling.folder import image_file
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import make_solver
from tests.conftest import ROOT
from tests.support.sampled import STEPS, manifest, pixels
from tests.support.tiny_models import tiny_pipeline


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_manifest_says_how_to_draw_every_image(options, model):
    """Each by its recorded seed, label and options, alone and through the pipeline itself."""
    folder = run(replace(options, guidance_scale=[2], solver="ddpm", seed=7, batch_size=1))
    entries = manifest(folder)
    assert {path.name for path in folder.iterdir()} == {
        *(f"{i:06d}.png" for i in range(5)),
        *("manifest.jsonl", "options.json", ".lock"),
    }
    pipeline = load_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    for i, entry in enumerate(entries):
        assert entry["index"] == i and entry["file"] == f"{i:06d}.png" and entry["seed"] == image_seed(7, i)
        assert entry["weights_sha256"] == file_hash(weights_file(model))
        pipeline.scheduler = make_solver(pipeline.scheduler, entry["solver"])
        image = pipeline(
            [entry["name"]],
            guidance_scale=entry["guidance_scale"],
            num_inference_steps=entry["steps"],
            generator=torch.Generator().manual_seed(entry["seed"]),
        ).images[0]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(folder / entry["file"])))
    assert len({entry["seed"] for entry in entries}) == 5


def test_images_do_not_depend_on_the_batch_size(options, tmp_path):
    one = pixels(run(options), 5)
    other = pixels(run(replace(options, output=str(tmp_path / "other"), batch_size=5)), 5)
    assert np.abs(one - other).max() <= 1
    assert one.std() > 10 and np.abs(one[0] - one[3]).max() > 10  # same class, other noise


def test_equal_batches_give_equal_files(options, tmp_path):
    one = contents(run(options))
    assert one == contents(run(replace(options, output=str(tmp_path / "other"))))
    seed = contents(run(replace(options, output=str(tmp_path / "seed"), seed=1)))
    assert one["000000.png"] != seed["000000.png"]


def test_an_interrupted_folder_goes_on(options):
    """Without some of its images and its manifest it comes out as if it had never stopped."""
    folder = run(options)
    before = contents(folder)
    for name in ("manifest.jsonl", "000001.png", "000003.png", "000004.png"):
        (folder / name).unlink()
    untouched = image_file(folder, 0).stat().st_ino
    assert contents(run(options)) == before
    drawn = image_file(folder, 0).stat().st_ino
    assert drawn != untouched  # its batch was drawn again as a whole, so that the shapes stay the same


def flipped(place):
    """One bit is another."""
    return lambda content: content[:place] + bytes([content[place] ^ 1]) + content[place:][1:]


def rewritten(**changes):
    """The same picture with another entry."""

    def damage(content):
        with Image.open(BytesIO(content)) as image:
            entry = json.loads(image.text["cardiff"])
            text = PngInfo()
            text.add_text("cardiff", json.dumps({**entry, **changes}))
            image.save(out := BytesIO(), "PNG", pnginfo=text)
        return out.getvalue()

    return damage


IMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-40],
    "no picture": lambda content: b"no picture",
    "a flipped bit": flipped(-30),
    "a flipped bit of a checksum, at which Pillow does not look": flipped(-13),
    "zeroed": lambda content: content[:100] + bytes(50) + content[150:],
    "another seed": rewritten(seed=5),
    "another label": rewritten(label=1, name="bee"),
    "other weights": rewritten(weights_sha256="0"),
    "other evaluations": rewritten(evaluations="many"),
    "an infinite entry": rewritten(steps=float("nan")),
}


@pytest.mark.parametrize("damage", IMAGES.values(), ids=IMAGES)
def test_a_damaged_image_is_drawn_again(damage, options, capsys):
    folder = run(options)
    before, file = contents(folder), image_file(folder, 2)
    untouched = image_file(folder, 0).stat().st_ino
    file.write_bytes(damage(file.read_bytes()))
    assert contents(run(options)) == before
    assert "damaged images are drawn again, 1 in all: 000002.png" in capsys.readouterr().err
    assert image_file(folder, 0).stat().st_ino == untouched
    run(options)
    assert "damaged" not in capsys.readouterr().err


OPTIONS = {"empty": "", "half": '{"weights', "deep": "[" * 100_000, "a list": "[1]", "NaN": '{"steps": NaN}'}


@pytest.mark.parametrize("text", OPTIONS.values(), ids=OPTIONS)
def test_damaged_options_are_mended_where_the_images_tell_them(text, options, capsys):
    folder = run(options)
    before = contents(folder)
    (folder / "options.json").write_text(text)
    assert contents(run(options)) == before
    assert "options.json" in (said := capsys.readouterr().err) and "written again, since the images fit" in said
    (folder / "options.json").write_text(text)
    for other in ({"seed": 1}, {"steps": 2}, {"labels": "bee"}):
        with pytest.raises(UserError, match="options.json .*, and 000000.png was drawn with other options: choose"):
            run(replace(options, **other))
    assert (folder / "options.json").read_text() == text


def test_options_of_other_types_are_other_options(options):
    folder = run(options)
    (folder / "options.json").write_text(json.dumps({"labels": {"a": 1}, **{f"x{i}": i for i in range(99)}}))
    with pytest.raises(UserError, match=r"drawn with other options \(guidance_scale, .*, … differ\)") as error:
        run(options)
    assert len(str(error.value)) < 500


def test_a_damaged_manifest_is_written_again(options):
    folder = run(options)
    before = contents(folder)
    (folder / "manifest.jsonl").write_text("x")
    assert contents(run(options)) == before


def test_intervals_without_an_end_go_on(options):
    """JSON has no infinite numbers, but Python writes and reads them."""
    options = replace(options, guidance_scale=[2], guidance_interval=[-math.inf, 3.0])
    folder = run(options)
    before = contents(folder)
    image_file(folder, 1).unlink()
    assert contents(run(options)) == before
    assert read_folder(folder).protocol["guidance_interval"] == [-math.inf, 3.0]


def words(options, **more):
    """The command line of these options."""
    given = {name: getattr(options, name) for name in ("model", "output", "num_images", "steps", "batch_size")} | more
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_whole_images_and_says_so(number, options, tmp_path, monkeypatch, capsys):
    """With a status that tells it from success; the same command goes on."""
    written = folders._write_png

    def stopped_at_the_fourth(image, path, entry):
        written(image, path, entry)
        if path.name == "000003.png":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(folders, "_write_png", stopped_at_the_fourth)
    with pytest.raises(SystemExit) as ended:
        sample.main(words(options))
    monkeypatch.undo()
    assert ended.value.code == 128 + number and f"Stopped by {number.name}." in capsys.readouterr().err
    there = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.png")}
    assert sorted(there) == [f"{i:06d}.png" for i in range(4)]
    sample.main(words(options))
    assert all((tmp_path / "out" / name).stat().st_ino == node for name, node in there.items())
    assert contents(tmp_path / "out") == contents(run(replace(options, output=str(tmp_path / "whole"))))


def test_a_folder_has_one_owner(options, tmp_path):
    owner = "import sys, time\nfrom cardiff.outputs import FolderLock\nlock = FolderLock(sys.argv[1])\n"
    owner += "print('locked', flush=True)\ntime.sleep(100)"
    with subprocess.Popen(
        [sys.executable, "-c", owner, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match=rf"out is in use by another command \(process {process.pid}"):
            run(options)
        process.kill()
    assert len(manifest(run(options))) == 5


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(options, tmp_path, capsys):
    """No file can become as large as the first image."""
    whole = contents(run(replace(options, output=str(tmp_path / "whole"))))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole["000000.png"]) - 1, before[1]))
        with pytest.raises(SystemExit) as ended:
            sample.main(words(options))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    err = capsys.readouterr().err
    assert ended.value.code == 1 and re.search(r"error: \S+/out/000000.png: File too large: ", err)
    assert not list((tmp_path / "out").glob(".writing-*")) and not list((tmp_path / "out").glob("*.png"))
    sample.main(words(options))
    assert contents(tmp_path / "out") == whole


def test_a_batch_is_written_while_the_next_one_is_drawn(options, monkeypatch):
    """And the one after that has to wait for it."""
    events: list[tuple[str, int]] = []
    second_is_drawn = threading.Event()
    draw, write = folders._Folder._draw, folders._write_png

    def drawn(folder, batch):
        events.append(("draw", batch[0]))
        if batch[0] == 2:
            second_is_drawn.set()
        return draw(folder, batch)

    def written(image, path, entry):
        assert second_is_drawn.wait(60), "images are written before the next batch is drawn"
        write(image, path, entry)
        events.append(("write", entry["index"]))

    monkeypatch.setattr(folders._Folder, "_draw", drawn)
    monkeypatch.setattr(folders, "_write_png", written)
    folder = run(replace(options, num_images=6))
    assert [entry["index"] for entry in manifest(folder)] == list(range(6))
    assert [index for what, index in events if what == "write"] == list(range(6))
    assert events.index(("draw", 2)) < events.index(("write", 0))
    assert events.index(("write", 1)) < events.index(("write", 2))


def test_an_error_in_writing_keeps_the_images_before_it(options, monkeypatch):
    write = folders._write_png

    def full_at_the_fourth(image, path, entry):
        if path.name == "000003.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(image, path, entry)

    monkeypatch.setattr(folders, "_write_png", full_at_the_fourth)
    with pytest.raises(OSError, match="No space left on device: .*000003.png"):
        run(replace(options, num_images=8))
    assert sorted(path.name for path in Path(options.output).glob("*.png")) == [f"{i:06d}.png" for i in range(3)]
    assert not Path(options.output, "manifest.jsonl").exists()
    monkeypatch.undo()
    assert len(manifest(run(replace(options, num_images=8)))) == 8


def test_a_finished_folder_is_left_alone(options):
    folder = run(options)
    before = {path.name: path.stat().st_ino for path in folder.glob("*.png")}
    run(options)
    assert {path.name: path.stat().st_ino for path in folder.glob("*.png")} == before


def test_what_a_killed_process_left_half_written_goes(options):
    folder = run(options)
    (folder / "000004.png").unlink()
    (folder / ".writing-000004.png.4194305").write_bytes(b"half")
    (folder / ".removing-x").mkdir()
    run(options)
    assert not list(folder.glob(".writing-*")) and not (folder / ".removing-x").exists()


def test_a_folder_can_be_extended(options, tmp_path):
    folder = run(options)
    first = contents(folder)
    run(replace(options, num_images=8))
    assert [entry["index"] for entry in manifest(folder)] == list(range(8))
    assert all(contents(folder)[f"{i:06d}.png"] == first[f"{i:06d}.png"] for i in range(4))
    whole = run(replace(options, num_images=8, output=str(tmp_path / "whole")))
    assert np.abs(pixels(folder, 8) - pixels(whole, 8)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"labels": "ant"}, "labels"),
        ({"guidance_scale": [2]}, "guidance_scale"),
        ({"solver": "ddpm", "steps": 4}, "solver, steps"),
    ],
)
def test_changed_options_are_refused(changes, named, options):
    folder = run(options)
    before = contents(folder)
    with pytest.raises(UserError, match=rf"was drawn|drawn with other options \({named} differ\)"):
        run(replace(options, **changes))
    assert contents(folder) == before


def test_changed_weights_are_refused(options, tmp_path):
    run(options)
    pipeline = tiny_pipeline(channels=3)
    torch.nn.init.zeros_(pipeline.unet.conv_out.bias)
    save_pipeline(pipeline, tmp_path / "model")
    with pytest.raises(UserError, match="weights_sha256 differ"):
        run(replace(options, model=str(tmp_path / "model")))


def test_a_foreign_folder_is_refused(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and was not made by this command"):
        run(options)
    assert contents(tmp_path / "out") == {"thesis.tex": b"x"}
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    run(options)  # an empty one is fine


def test_only_the_lock_is_in_a_folder_that_is_free(options, tmp_path):
    """As after a command that was killed before it wrote anything."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.lock").write_text("")
    (tmp_path / "out/.writing-options.json.77").write_text("{")
    assert len(manifest(run(options))) == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"output": "{}/file"}, "--output .*/file cannot be written, since .* is a file: choose another"),
        ({"output": "{}/file/deeper"}, "--output .*/deeper cannot be written, since .*/file is a file"),
        ({"output": " "}, "--output is empty"),
        ({"output": "x" * 300}, "cannot be a folder"),
        ({"output": None, "grid": "{}/file/g.png"}, "--grid .*/g.png cannot be written, since .*/file is a file"),
        ({"output": None, "grid": "{}/grid"}, "--grid .*/grid must end in .png"),
        ({"output": None, "grid": "{}/grid.gif"}, "--grid .*/grid.gif must end in .png"),
        ({"output": None, "grid": "{}/folder.png"}, "--grid .*/folder.png is a folder: give a file"),
        ({"output": None, "grid": ""}, "--grid is empty"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(changes, sentence, options, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("cardiff.sampling.sample.make_plan", lambda *_: pytest.fail("the model was loaded"))
    given = {name: value and value.format(tmp_path) for name, value in changes.items()}
    with pytest.raises(UserError, match=sentence):
        run(replace(options, **given))


def test_images_that_are_not_finite_are_refused_by_number(unclipped, tmp_path):
    """Images of batches before stay, and no black ones are added."""
    options = SampleOptions(str(unclipped), output=str(tmp_path / "out"), labels="ant", num_images=6, steps=STEPS)
    with pytest.raises(UserError, match=r"after the last step: 3\. Try a smaller guidance_scale"):
        run(replace(options, guidance_scale=[1, 1, 1, 1e38, 1, 1e38], batch_size=2))
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == ["000000.png", "000001.png"]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
