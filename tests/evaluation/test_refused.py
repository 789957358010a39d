"""What evaluate.py refuses, before anything is computed."""

from dataclasses import replace
from pathlib import Path

import pytest

import evaluate
from cardiff.cli import parse_options
from cardiff.errors import UserError
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.features import extraction as features_module
from cardiff.evaluation.options import EvaluateOptions
from tests.conftest import ROOT
from tests.support.tiny_set import write_set


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"export_reference": "reference.npz"}, "--export_reference reference.npz must end in .safetensors"),
        ({"batch_size": 0}, "--batch_size is 0, but must be 1 or more."),
        ({"images": None}, "Give either --images DIR or --model DIR_OR_REPO."),
        ({"metrics": "fdi"}, "--metrics names 'fdi', which is not a metric; did you mean 'fid'?"),
        ({"metrics": "accuracy"}, "accuracy, which needs a classifier: give --accuracy_classifier"),
        ({"metrics": "memorisation"}, "give --validation_data"),
        ({"validation_data": "x.safetensors"}, "--validation_data is a file of statistics"),
        ({"output": "/dev/null/here"}, "--output /dev/null/here cannot be written"),
        ({"output": "setup.cfg"}, "--output setup.cfg cannot be written"),
        (
            {"export_reference": "/dev/null/x.safetensors"},
            "--export_reference /dev/null/x.safetensors cannot be written",
        ),
        ({"max_images": 1}, "--max_images is 1, but must be 2 or more"),
        ({"metrics": "is"}, "has no classification head"),
        ({"metrics": "fid_infinity"}, "60 images are too few for fid_infinity"),
        ({"num_images": 5}, "5 images are too few for prdc"),
        ({"num_images": 61}, "contains 60 images"),
        ({"reference": None}, "Give --reference"),
        ({"reference": "nothing"}, "nothing is neither a YAML file"),
        ({"reference": "nothing.yaml"}, "nothing.yaml cannot be read"),
        ({"reference": "setup.cfg"}, "setup.cfg is neither a YAML file"),
        (
            {"reference": "configs/digits_16_conditional.yaml"},
            "has images of 16 pixels and 1 channels, but the samples",
        ),
        ({"seeds": [0, 0]}, "--seeds is [0, 0], but the seeds must be different"),
        ({"replicates": 1}, "--replicates is 1"),
    ],
)
def test_refused(changes, sentence, world, options, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        run(replace(options, **{"images": str(world["held_out"].with_suffix("")), **changes}))
    assert sentence in str(error.value)
    assert not Path(options.output).exists()


@pytest.mark.parametrize(
    "changes",
    [{"metrics": "memorisation"}, {"metrics": "is"}, {"num_images": 5}, {"metrics": "accuracy"}, {"metrics": "x"}],
)
def test_options_are_refused_before_the_reference_is_looked_at(changes, world, options, monkeypatch):
    monkeypatch.setattr(features_module, "open_store", None)
    with pytest.raises(UserError):
        run(replace(options, images=str(world["held_out"].with_suffix("")), **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"guidance_scale": [1, 2]}, "--guidance_scale is [1.0, 2.0], but one value is measured at a time"),
        ({"solver": "dmp"}, "There is no solver 'dmp'"),
        ({"steps": 1001}, "--steps is 1001, but the model has 1000 timesteps: give 1 to 1000"),
        ({"guidance_interval": "1"}, "--guidance_interval is 1"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused_before_anything_is_computed(
    changes, sentence, world, options, monkeypatch
):
    monkeypatch.setattr(features_module, "extract", None)  # nor is the reference opened
    with pytest.raises(UserError) as error:
        run(replace(options, model=str(world["model"]), reference="nothing", **changes))
    assert sentence in str(error.value)


def test_a_model_of_other_classes_is_refused(world, options, tmp_path):
    other = write_set(tmp_path / "other", 3)
    (tmp_path / "other/bee").rename(tmp_path / "other/wasp")
    with pytest.raises(UserError, match="give the data that the model was trained on"):
        run(replace(options, model=str(world["model"]), reference=str(other), num_images=20))


def test_the_script_says_it_in_one_sentence(world, options, capsys):
    arguments = ["--images", "/nowhere", "--reference", str(world["train"]), "--output", options.output]
    with pytest.raises(SystemExit) as exit_of:
        evaluate.main(arguments)
    error = capsys.readouterr().err
    assert exit_of.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1


def test_options_of_the_command_line():
    options = parse_options(EvaluateOptions, ["--model", "runs/a", "--output", "out", "--guidance_scale", "2"], "")
    assert (options.guidance_scale, options.solver, options.network) == ([2.0], "dpm", "inception")
