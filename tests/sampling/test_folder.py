"""Drawing into folders and grids: what the options mean, and that an image depends on nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image

from cardiff.cli import parse_options
from cardiff.diffusion.randomness import image_seed
from cardiff.files import file_hash
from cardiff.hub.serialization import load_pipeline, save_pipeline, weights_file
from cardiff.sampling.folder import SampleOptions, draw_images, image_file, run, to_uint8
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.tiny_models import tiny_pipeline, tiny_unet

STEPS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A conditional model of the classes ant, bee and "cat, black"."""
    folder = tmp_path_factory.mktemp("sampling") / "conditional"
    save_pipeline(tiny_pipeline(channels=3), folder)
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling") / "unconditional"
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), folder)
    return folder


@pytest.fixture
def options(model, tmp_path):
    return SampleOptions(str(model), output=str(tmp_path / "out"), num_images=5, steps=STEPS, batch_size=2)


def pixels(folder, count):
    return np.stack([np.asarray(Image.open(image_file(folder, i))) for i in range(count)]).astype(int)


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (None, [0, 1, 2, 0, 1]),
        ("2", [2] * 5),
        ("bee", [1] * 5),
        ("0,bee", [0, 1, 0, 1, 0]),
        (" 2 , ant,2", [2, 0, 2, 2, 0]),
        ("cat, black", [2] * 5),  # a name with a comma in it
    ],
)
def test_labels_are_taken_in_turn(text, labels, options):
    folder = run(replace(options, labels=text))
    names = ["ant", "bee", "cat, black"]
    assert [(entry["label"], entry["name"]) for entry in manifest(folder)] == [(i, names[i]) for i in labels]


def test_all_of_twelve_classes_in_the_order_of_their_indices(tmp_path):
    save_pipeline(tiny_pipeline(id2label={i: f"class {i}" for i in range(12)}), tmp_path / "model")
    run(SampleOptions(str(tmp_path / "model"), output=str(tmp_path / "out"), num_images=12, steps=1))
    found = [(entry["label"], entry["name"]) for entry in manifest(tmp_path / "out")]
    assert found == [(i, f"class {i}") for i in range(12)]


def test_a_label_of_two_readings_is_refused(tmp_path):
    save_pipeline(tiny_pipeline(id2label={0: "1", 1: "0", 2: "2"}), tmp_path / "model")
    options = SampleOptions(str(tmp_path / "model"), output=str(tmp_path / "out"), num_images=2, steps=STEPS)
    with pytest.raises(ValueError, match="'1' is the name of one class and the index of another, '0'"):
        run(replace(options, labels="2,1"))
    run(replace(options, labels='"1",index:1'))
    assert [(entry["label"], entry["name"]) for entry in manifest(tmp_path / "out")] == [(0, "1"), (1, "0")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": "ant,dog"}, "Class label 'dog' is not a class of this model"),
        ({"labels": "3"}, "Class label 3 is out of range"),
        ({"labels": "-1"}, "Class label '-1' is not a class"),
        ({"labels": ""}, "Class label '' is not a class"),
        ({"labels": "²"}, "Class label '²' is not a class"),
        ({"guidance_scale": "much"}, "--guidance_scale is 'much', but must be a number"),
        ({"guidance_scale": "1", "classifier_scale": "2"}, "--classifier_scale needs a --classifier"),
        ({"labels": "0.5*ant+0.6*bee"}, "must not be negative and must add up to 1"),
        ({"labels": "half*ant+0.5*bee"}, "The label 'half*ant+0.5*bee' is not a mixture such as"),
        ({"labels": "0.5*ant+0.5*dog"}, "Class label 'dog' is not a class of this model"),
        ({"guidance_scale": "nan"}, "--guidance_scale is 'nan'"),
        ({"solver": "dmp"}, "There is no solver 'dmp'"),
        ({"steps": 1001}, "--steps is 1001, but the model has 1000 timesteps: give 1 to 1000"),
        ({"num_images": 0}, "--num_images is 0, but must be 1 or more"),
        ({"steps": -1}, "--steps is -1, but must be 1 or more"),
        ({"batch_size": 0}, "--batch_size is 0, but must be 1 or more"),
        ({"output": None}, "Give either --output DIR for single images or --grid FILE"),
        ({"grid": "grid.png"}, "Give either --output DIR for single images or --grid FILE"),
        ({"model": "/nowhere/at/all"}, "There is no folder /nowhere/at/all."),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_refused_options(changes, sentence, options):
    with pytest.raises(ValueError) as error:
        run(replace(options, **changes))
    assert sentence in str(error.value)


def test_refused_options_leave_no_folder(options, tmp_path):
    """A folder that was claimed for nothing would stand in the way of the corrected command."""
    with pytest.raises(ValueError, match="1001"):
        run(replace(options, steps=1001))
    run(options)


def test_options_from_the_command_line_and_a_file(tmp_path):
    (tmp_path / "options.yaml").write_text("model: m\noutput: o\nsteps: 7\n")
    expected = SampleOptions("m", output="o", steps=9, labels="0,3,seven", guidance_scale="0,1.5")
    argv = ["--config", str(tmp_path / "options.yaml"), "--steps", "9", "--labels", "0,3,seven"]
    assert parse_options(SampleOptions, [*argv, "--guidance_scale", "0,1.5"], "test") == expected


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model", "m", "--stpes", "3"], "there is no option 'stpes'; did you mean 'steps'?"),
        (["--model", "m", "--steps", "many"], "steps is 'many', but must be int."),
        (["--output", "o"], "model"),
    ],
)
def test_mistakes_on_the_command_line(argv, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(SampleOptions, argv, "test")
    assert sentence in capsys.readouterr().err


# Folders


def test_the_manifest_says_how_to_draw_every_image(options, model):
    """Each by its recorded seed, label and options, alone and through the pipeline itself."""
    folder = run(replace(options, guidance_scale="2", solver="ddpm", seed=7, batch_size=1))
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
    with pytest.raises(ValueError, match="000002.png is damaged or was not written by this command: remove it"):
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
        ({"guidance_scale": "2"}, "guidance_scale"),
        ({"solver": "ddpm", "steps": 4}, "solver, steps"),
    ],
)
def test_changed_options_are_refused(changes, named, options):
    folder = run(options)
    before = contents(folder)
    with pytest.raises(ValueError, match=rf"was drawn|drawn with other options \({named} differ\)"):
        run(replace(options, **changes))
    assert contents(folder) == before


def test_changed_weights_are_refused(options, tmp_path):
    run(options)
    pipeline = tiny_pipeline(channels=3)
    torch.nn.init.zeros_(pipeline.unet.conv_out.bias)
    save_pipeline(pipeline, tmp_path / "model")
    with pytest.raises(ValueError, match="weights_sha256 differ"):
        run(replace(options, model=str(tmp_path / "model")))


def test_a_foreign_folder_is_refused(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and was not made by this command"):
        run(options)
    assert contents(tmp_path / "out") == {"thesis.tex": b"x"}
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    run(options)  # an empty one is fine


def test_an_output_that_is_a_file_is_refused(options, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ValueError, match="out"):
        run(options)


def test_an_unconditional_model(unconditional, tmp_path):
    options = SampleOptions(str(unconditional), output=str(tmp_path / "out"), steps=STEPS)
    folder = run(options)
    assert [(entry["label"], entry["name"]) for entry in manifest(folder)] == [(None, None)] * 8
    assert pixels(folder, 8).shape == (8, 8, 8)  # grey
    with pytest.raises(ValueError, match="This model is unconditional: leave --labels out"):
        run(replace(options, labels="0"))


# Images that are not finite


@pytest.fixture(scope="module")
def unclipped(tmp_path_factory):
    """A model of which guidance without measure overflows."""
    folder = tmp_path_factory.mktemp("sampling") / "unclipped"
    save_pipeline(tiny_pipeline(CosineScheduler(prediction_type="v_prediction", clip_sample=False).to_stock()), folder)
    return folder


def test_images_that_are_not_finite_are_refused_by_number(unclipped, tmp_path):
    """Images of batches before stay, and no black ones are added."""
    options = SampleOptions(str(unclipped), output=str(tmp_path / "out"), labels="ant", num_images=6, steps=STEPS)
    with pytest.raises(ValueError, match=r"after the last step: 3\. Try a smaller guidance_scale"):
        run(replace(options, guidance_scale="1,1,1,1e38,1,1e38", batch_size=2))
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == ["000000.png", "000001.png"]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_a_grid_of_images_that_are_not_finite_is_refused(unclipped, tmp_path):
    options = SampleOptions(str(unclipped), grid=str(tmp_path / "grid.png"), num_images=3, steps=STEPS)
    with pytest.raises(ValueError, match=r"NaN or infinite after the last step: 0, 1, 2\."):
        run(replace(options, guidance_scale="1,1e38"))
    assert not (tmp_path / "grid.png").exists()


# Grids


def test_a_grid_shows_the_series_of_its_seed(model, tmp_path):
    """Row by row and scale by scale, the images that draw_images gives; one seed for all scales."""
    path = tmp_path / "new" / "grid.png"
    options = SampleOptions(
        str(model), grid=str(path), labels="bee,ant", num_images=6, guidance_scale="0,2.5", steps=STEPS, batch_size=4
    )
    assert run(options) == path
    picture = np.asarray(Image.open(path)).astype(int)
    pipeline = load_pipeline(model)
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    # 8 pixels at zoom 8 with a gap of 4; the rest of the width is the names.
    height, width, _ = picture.shape
    left = width - 2 * (3 * 68 + 12)
    top = height - 2 * 68 - 8
    assert left > 8 and top > 8
    for block, scale in enumerate((0.0, 2.5)):
        expected = draw_images(
            pipeline, range(6), seed=0, labels=[1, 1, 1, 0, 0, 0], guidance_scale=scale, batch_size=64, steps=STEPS
        ).astype(int)
        for i in range(6):
            y, x = top + (i // 3) * 68, left + block * 216 + (i % 3) * 68
            shown = picture[y + 4 : y + 64 : 8, x + 4 : x + 64 : 8]
            assert np.abs(shown - expected[i]).max() <= 1


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (7, 3, 3), (9, 3, 3), (12, 4, 3)])
def test_a_grid_without_labels_is_about_a_square(count, columns, rows, unconditional, tmp_path):
    """All images of the series in reading order, and nothing after the last."""
    run(SampleOptions(str(unconditional), grid=str(tmp_path / "grid.png"), num_images=count, steps=2))
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L")).astype(int)
    pipeline = load_pipeline(unconditional)
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    images = draw_images(pipeline, range(count), seed=0, labels=None, guidance_scale=1.0, batch_size=64, steps=2)
    assert picture.shape[1] >= 8 + columns * 68 + 12  # or more, for the title
    tiles = picture[-8 - rows * 68 : -8, 8 : 8 + columns * 68].reshape(rows, 68, columns, 68).transpose(0, 2, 1, 3)
    tiles = tiles.reshape(rows * columns, 68, 68)[:, 4:64:8, 4:64:8]
    assert np.abs(tiles[:count] - images[..., 0].astype(int)).max() <= 1
    assert (tiles[count:] == 255).all()


# Drawing


def test_draw_images_without_labels_is_the_null_class(model):
    pipeline = load_pipeline(model)
    without = draw_images(pipeline, [3, 4], seed=0, labels=None, guidance_scale=2, steps=STEPS, batch_size=2)
    nulls = draw_images(pipeline, [3, 4], seed=0, labels=[0, 1], guidance_scale=0, steps=STEPS, batch_size=2)
    assert without.dtype == np.uint8 and without.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(without, nulls)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm", "unipc"])
def test_solvers_clip_at_one_if_the_model_does(name, clip):
    """A network that sees one image behind everything: every solver ends with it, cut to [-1, 1] or as it is.

    What lies within stays as it is too, where a bound above 1 would also divide by itself.
    """
    seen = torch.tensor([3.0, 0.6, -0.2, -5.0]).repeat(16).reshape(1, 1, 8, 8)
    solver = make_solver(CosineScheduler(prediction_type="v_prediction", clip_sample=clip).to_stock(), name)
    solver.set_timesteps(5)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in solver.timesteps:
        signal = solver.alphas_cumprod[t]
        result = solver.step((signal.sqrt() * x - seen) / (1 - signal).sqrt(), t, x)
        x = result.prev_sample
    x = result.pred_original_sample if name == "ddpm" else x  # diffusers adds noise after the last of few steps
    torch.testing.assert_close(x, seen.clamp(-1, 1) if clip else seen, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_have_the_model_s_own_settings(name):
    trained = LinearScheduler(
        num_train_timesteps=200,
        prediction_type="v_prediction",
        variance_type="fixed_large",
        clip_sample=False,
        timestep_spacing="leading",
    ).to_stock()
    solver = make_solver(trained, name)
    assert torch.equal(solver.alphas_cumprod, trained.alphas_cumprod)
    for key in ("num_train_timesteps", "prediction_type", "timestep_spacing"):
        assert solver.config[key] == trained.config[key]
    assert solver.config.get("clip_sample", False) is False and solver.config.get("thresholding", False) is False
    if name == "ddpm":
        assert solver.config.variance_type == "fixed_large"


def test_dpm_starts_where_there_is_something_to_see():
    """At the first level above a log-SNR of −10.2, and the last step of every solver ends at the clean image."""
    trained = CosineScheduler().to_stock()
    log_snr = torch.logit(trained.alphas_cumprod.double())
    solver = make_solver(trained, "dpm")
    solver.set_timesteps(10)
    first = int(solver.timesteps[0])
    assert log_snr[first] >= -10.2 and first + 2 < len(log_snr) and log_snr[first + 2] < -10.2
    assert make_solver(trained, "ddim").final_alpha_cumprod == 1


def test_the_steps_of_another_schedule(model, options):
    """The trained levels nearest to those of the linear schedule are visited, and the manifest says so."""
    run(replace(options, solver="ddpm", steps=4, timesteps_from="linear"))
    timesteps = manifest(Path(options.output))[0]["timesteps"]
    linear = torch.logit(LinearScheduler().alphas_cumprod.double())[[249, 499, 749, 999]]
    trained = torch.logit(CosineScheduler().alphas_cumprod.double())
    assert timesteps == [int((trained - level).abs().argmin()) for level in linear.flip(0)]
    pipeline = load_pipeline(model)
    pipeline.scheduler = make_solver(pipeline.scheduler, "ddpm")
    settings = {"seed": 0, "labels": [0, 1], "guidance_scale": 1, "steps": 4, "batch_size": 2}
    same = draw_images(pipeline, [0, 1], timesteps=timesteps, **settings)
    np.testing.assert_array_equal(pixels(Path(options.output), 2), same)
    assert (draw_images(pipeline, [0, 1], **settings) != same).any()


def test_fewer_steps_than_asked_for_are_said(options, capsys):
    """Two noise levels of the other schedule can have the same nearest timestep."""
    folder = run(replace(options, steps=20, timesteps_from="exponential", num_images=1))
    entry = manifest(folder)[0]
    assert (entry["steps"], len(entry["timesteps"]), entry["evaluations"]["unet"]) == (20, 19, 19)
    assert "20 steps of exponential fall on 19 timesteps of the model: so many steps" in capsys.readouterr().out


def test_as_many_steps_as_asked_for_are_drawn(options, capsys):
    """DPM-Solver++ by itself would take 249."""
    entry = manifest(run(replace(options, steps=250, num_images=1)))[0]
    assert (entry["steps"], entry["evaluations"]) == (250, {"unet": 250})
    assert "steps" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"timesteps_from": "cosin"}, "did you mean 'cosine'"),
        ({"timesteps_from": "none.yaml"}, "none.yaml cannot be read"),
        (
            {"timesteps_from": "linear", "solver": "unipc"},
            "UniPCMultistepScheduler cannot step through given times",
        ),
    ],
)
def test_refused_steps_of(changes, sentence, options):
    with pytest.raises(ValueError, match=sentence):
        run(replace(options, **changes))
    assert not Path(options.output).exists()


def test_to_uint8_rounds_to_the_nearest():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 1.0]).reshape(1, 1, 2, 3)
    images = to_uint8(values)
    assert images.shape == (1, 2, 3, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images.ravel(), [0, 0, 1, 100, 101, 255])
