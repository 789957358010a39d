"""What the options mean to a model, and that an image depends on nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cardiff.errors import UserError
from cardiff.hub.serialization import load_pipeline, save_pipeline
from cardiff.sampling.draw import draw, to_uint8
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.sampled import STEPS, manifest, pixels
from tests.support.tiny_models import tiny_pipeline


def test_drawing_without_labels_is_the_null_class(model):
    pipeline = load_pipeline(model)
    without, _ = draw(pipeline, [3, 4], seed=0, labels=None, guidance_scale=2, steps=STEPS, batch_size=2)
    nulls, _ = draw(pipeline, [3, 4], seed=0, labels=[0, 1], guidance_scale=0, steps=STEPS, batch_size=2)
    assert without.dtype == np.uint8 and without.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(without, nulls)


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
    same, _ = draw(pipeline, [0, 1], timesteps=timesteps, **settings)
    np.testing.assert_array_equal(pixels(Path(options.output), 2), same)
    assert (draw(pipeline, [0, 1], **settings)[0] != same).any()


def test_fewer_steps_than_asked_for_are_said(options, capsys):
    """Two noise levels of the other schedule can have the same nearest timestep."""
    folder = run(replace(options, steps=20, timesteps_from="exponential", num_images=1))
    entry = manifest(folder)[0]
    assert (entry["steps"], len(entry["timesteps"]), entry["evaluations"]["unet"]) == (20, 19, 19)
    assert "20 steps of exponential fall on 19 timesteps of the model: 19 steps" in capsys.readouterr().out


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
            "UniPCMultistepScheduler does not support custom timesteps",
        ),
    ],
)
def test_refused_steps_of(changes, sentence, options):
    with pytest.raises(UserError, match=sentence):
        run(replace(options, **changes))
    assert not Path(options.output).exists()


def test_to_uint8_rounds_to_the_nearest():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 1.0]).reshape(1, 1, 2, 3)
    images = to_uint8(values)
    assert images.shape == (1, 2, 3, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images.ravel(), [0, 0, 1, 100, 101, 255])


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
    with pytest.raises(UserError, match="'1' is the name of one class and the index of another, '0'"):
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
        ({"guidance_scale": [1], "classifier_scale": [2]}, "--classifier_scale has no effect without --classifier"),
        ({"labels": "0.5*ant+0.6*bee"}, "must not be negative and must add up to 1"),
        ({"labels": "half*ant+0.5*bee"}, "The label 'half*ant+0.5*bee' is not a mixture such as"),
        ({"labels": "0.5*ant+0.5*dog"}, "Class label 'dog' is not a class of this model"),
        ({"guidance_scale": [1.0, np.nan]}, "--guidance_scale is [1.0, nan], but each of them must be a number"),
        ({"solver": "dmp"}, "There is no solver 'dmp'"),
        ({"steps": 1001}, "--steps is 1001, but the model has 1000 timesteps: give 1 to 1000"),
        ({"num_images": 0}, "--num_images is 0, but must be 1 or more"),
        ({"steps": -1}, "--steps is -1, but must be 1 or more"),
        ({"batch_size": 0}, "--batch_size is 0, but must be 1 or more"),
        ({"output": None}, "Give either --output DIR for single images, or --grid FILE"),
        ({"grid": "grid.png"}, "Give either --output DIR for single images, or --grid FILE"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all is not a folder"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_refused_options(changes, sentence, options):
    with pytest.raises(UserError) as error:
        run(replace(options, **changes))
    assert sentence in str(error.value)


def test_refused_options_leave_no_folder(options, tmp_path):
    """A folder that was claimed for nothing would stand in the way of the corrected command."""
    with pytest.raises(UserError, match="1001"):
        run(replace(options, steps=1001))
    run(options)


def test_an_unconditional_model(unconditional, tmp_path):
    options = SampleOptions(str(unconditional), output=str(tmp_path / "out"), steps=STEPS)
    folder = run(options)
    assert [(entry["label"], entry["name"]) for entry in manifest(folder)] == [(None, None)] * 8
    assert pixels(folder, 8).shape == (8, 8, 8)  # grey
    with pytest.raises(UserError, match="This model is unconditional: leave --labels out"):
        run(replace(options, labels="0"))
