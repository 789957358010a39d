"""Sampled folders: what the manifest says, and that they can be continued and extended."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cardiff.diffusion.randomness import image_seed
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.serialization import load_pipeline, save_pipeline, weights_file
from cardiff.sampling.folder import image_file
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import make_solver
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
        *("manifest.jsonl", "options.json"),
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


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-40], lambda content: b"no picture"])
def test_a_damaged_image_is_named(damage, options):
    folder = run(options)
    file = image_file(folder, 2)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="000002.png is damaged or was not written by this command: remove it"):
        run(options)
    file.unlink()
    run(options)
    assert len(manifest(folder)) == 5


def test_a_finished_folder_is_left_alone(options):
    folder = run(options)
    before = {path.name: path.stat().st_ino for path in folder.glob("*.png")}
    run(options)
    assert {path.name: path.stat().st_ino for path in folder.glob("*.png")} == before


def test_what_a_killed_process_left_half_written_goes(options):
    folder = run(options)
    (folder / "000004.png").unlink()
    (folder / ".writing-000004.png.4194305").write_bytes(b"half")
    run(options)
    assert not list(folder.glob(".writing-*"))


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


def test_an_output_that_is_a_file_is_refused(options, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="out"):
        run(options)


def test_images_that_are_not_finite_are_refused_by_number(unclipped, tmp_path):
    """Images of batches before stay, and no black ones are added."""
    options = SampleOptions(str(unclipped), output=str(tmp_path / "out"), labels="ant", num_images=6, steps=STEPS)
    with pytest.raises(UserError, match=r"after the last step: 3\. Try a smaller guidance_scale"):
        run(replace(options, guidance_scale=[1, 1, 1, 1e38, 1, 1e38], batch_size=2))
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == ["000000.png", "000001.png"]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
