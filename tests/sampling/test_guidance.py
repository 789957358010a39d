"""Guidance from the command line: every option reaches the pipeline, and the manifest says what it cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline
from PIL import Image

from cardiff.cli import parse_options
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.serialization import (
    classifier_weights_file,
    load_classifier,
    load_pipeline,
    save_classifier,
    save_pipeline,
    weights_file,
)
from cardiff.sampling.draw import draw
from cardiff.sampling.folder import image_file, read_entry
from cardiff.sampling.guidance import make_guidance
from cardiff.sampling.options import GuidanceOptions, SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.sampled import manifest, pixels
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline, tiny_unet

STEPS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a model, a worse one, an unconditional one, a classifier, and some that do not fit."""
    root = tmp_path_factory.mktemp("guidance")
    scheduler = CosineScheduler(prediction_type="v_prediction").to_stock()
    other = LinearScheduler(prediction_type="v_prediction").to_stock()
    save_pipeline(tiny_pipeline(scheduler), root / "model")
    worse = tiny_pipeline(scheduler)
    worse.unet = tiny_unet(3, seed=1)
    save_pipeline(worse, root / "worse")
    save_pipeline(tiny_pipeline(other), root / "other_noise")
    save_pipeline(tiny_pipeline(CosineScheduler().to_stock()), root / "other_prediction")
    save_pipeline(DDPMPipeline(tiny_unet(None), scheduler), root / "unconditional")
    save_classifier(tiny_classifier(), scheduler, root / "classifier")
    save_classifier(
        tiny_classifier(alphas_cumprod=other.alphas_cumprod.tolist()), other, root / "classifier_other_noise"
    )
    renamed = tiny_classifier(id2label={0: "bee", 1: "ant", 2: "cat, black"})
    save_classifier(renamed, scheduler, root / "classifier_other_names")
    return root


@pytest.fixture
def options(models, tmp_path):
    return SampleOptions(
        str(models / "model"), output=str(tmp_path / "out"), num_images=6, steps=STEPS, batch_size=4, solver="ddim"
    )


def drawn(models, labels, guidance_scale=1.0, model="model", **guidance):
    pipeline = load_pipeline(models / model)
    pipeline.scheduler = make_solver(pipeline.scheduler, "ddim")
    settings = {"seed": 0, "steps": STEPS, "batch_size": 8, "guidance_scale": guidance_scale}
    images, cost = draw(pipeline, range(len(labels)), labels=labels, **settings, **guidance)
    return images[..., 0].astype(int), cost


TURNS = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({"guidance_scale": [3]}, {"guidance_scale": 3.0}),
        ({"guidance_scale": [3], "guidance_interval": [-3, 3]}, {"guidance_scale": 3.0, "guidance_interval": (-3, 3)}),
        ({"guidance_scale": [3], "guidance_interval": "-3,3"}, {"guidance_scale": 3.0, "guidance_interval": (-3, 3)}),
        (
            {"guidance_scale": [3], "guidance_interval_sigma": [0.3, 3]},
            {"guidance_scale": 3.0, "guidance_interval_sigma": (0.3, 3)},
        ),
        ({"guidance_scale": [4], "guidance_rescale": 0.7}, {"guidance_scale": 4.0, "guidance_rescale": 0.7}),
        ({"guidance_scale": [4], "dynamic_thresholding": 0.9}, {"guidance_scale": 4.0, "dynamic_thresholding": 0.9}),
        ({"guidance_scale": [0.6], "cfg_plus_plus": True}, {"guidance_scale": 0.6, "cfg_plus_plus": True}),
        (
            {"guidance_schedule": [[-5, 1], [0, 4], [5, 2]]},
            {"guidance_scale": lambda level: np.interp(level, [-5, 0, 5], [1, 4, 2])},
        ),
    ],
)
def test_options_reach_the_pipeline(changes, arguments, options, models):
    folder = run(replace(options, **changes))
    images, cost = drawn(models, TURNS, **arguments)
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entries = manifest(folder)
    assert [entry["evaluations"] for entry in entries] == cost
    plain, _ = drawn(models, TURNS)
    assert np.abs(images - plain).max() > 3
    for name, value in changes.items():
        if name not in ("guidance_scale", "guidance_schedule"):
            assert entries[0][name] == ([-3, 3] if value == "-3,3" else value)
    assert [read_entry(image_file(folder, i)) for i in range(6)] == entries


def test_another_network_guides(options, models):
    folder = run(replace(options, guidance_scale=[2], guidance_model=str(models / "worse")))
    images, cost = drawn(models, TURNS, 2.0, guidance_unet=load_pipeline(models / "worse").unet)
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entry = manifest(folder)[0]
    assert entry["evaluations"] == cost[0] == {"unet": STEPS, "guidance_unet": STEPS}
    assert entry["guidance_weights_sha256"] == file_hash(weights_file(models / "worse"))


@pytest.mark.parametrize("model", ["model", "unconditional"])
def test_a_classifier_guides(model, options, models):
    """With an unconditional model the labels are the classifier's."""
    changes = {"model": str(models / model), "classifier": str(models / "classifier"), "classifier_scale": [20]}
    folder = run(replace(options, labels="bee,0", **changes))
    classifier, _ = load_classifier(models / "classifier")
    images, cost = drawn(models, [1, 0] * 3, model=model, classifier=classifier, classifier_scale=20.0)
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entry = manifest(folder)[0]
    assert (entry["label"], entry["name"], entry["classifier_scale"]) == (1, "bee", 20.0)
    assert entry["evaluations"] == cost[0] == {"unet": STEPS, "classifier": STEPS}
    assert entry["classifier_sha256"] == file_hash(classifier_weights_file(models / "classifier"))
    without, _ = drawn(models, [1, 0] * 3, model=model, classifier=classifier, classifier_scale=0.0)
    assert np.abs(images - without).max() > 3


def test_a_folder_takes_several_scales_in_turn(options, models):
    """All labels with the first scale, then all with the second; one pass serves both."""
    folder = run(replace(options, guidance_scale=[0, 2.5]))
    images, cost = drawn(models, TURNS, np.array([0, 0, 0, 2.5, 2.5, 2.5]))
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entries = manifest(folder)
    assert [(entry["label"], entry["guidance_scale"]) for entry in entries] == list(zip(TURNS, [0.0] * 3 + [2.5] * 3))
    assert [entry["evaluations"]["unet"] for entry in entries] == [STEPS] * 3 + [2 * STEPS] * 3


def test_a_mixed_label(options, models):
    folder = run(replace(options, labels="0.25*ant+0.75*2,bee", guidance_scale=[2]))
    images, _ = drawn(models, [{0: 0.25, 2: 0.75}, 1] * 3, 2.0)
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entries = manifest(folder)
    assert entries[0]["label"] == {"0": 0.25, "2": 0.75} and entries[0]["name"] == "0.25*ant+0.75*cat, black"
    assert entries[1]["label"] == 1
    run(replace(options, labels="0.25*ant+0.75*2,bee", guidance_scale=[2]))  # goes on


def test_a_grid_of_scales(options, models, tmp_path):
    changes = {"output": None, "grid": str(tmp_path / "grid.png"), "classifier": str(models / "classifier")}
    run(replace(options, num_images=3, classifier_scale=[0, 30], **changes))
    guidance = make_guidance(replace(options, classifier_scale=[0, 30], **changes), load_pipeline(models / "model"))
    assert guidance.titles == ["classifier guidance 0", "classifier guidance 30"]
    assert Image.open(tmp_path / "grid.png").size[0] > 2 * 64


TITLES = {
    "no guidance": {},
    "classifier-free guidance 2, rescale 0.7": {"guidance_scale": [2], "guidance_rescale": 0.7},
    "classifier-free guidance 2 for log-SNR in [-1, 2.5)": {"guidance_scale": [2], "guidance_interval": [-1, 2.5]},
    "autoguidance 1 for σ/a in (0.3, 5]": {"guidance_model": "worse", "guidance_interval_sigma": "0.3,5"},
    "CFG++ 0.5, dynamic thresholding 0.9": {
        "guidance_scale": [0.5],
        "cfg_plus_plus": True,
        "dynamic_thresholding": 0.9,
    },
    "classifier-free guidance by schedule": {"guidance_schedule": [[-1, 1], [2, 4]]},
    "classifier-free guidance 3 and classifier guidance 0.5": {
        "guidance_scale": [3],
        "classifier": "classifier",
        "classifier_scale": [0.5],
    },
}


@pytest.mark.parametrize(("title", "changes"), TITLES.items(), ids=TITLES)
def test_the_title_of_a_block_names_the_kind_of_guidance(title, changes, options, models):
    folders = {name: str(models / changes[name]) for name in ("guidance_model", "classifier") if name in changes}
    asked_for = replace(options, **{**changes, **folders})
    pipeline = load_pipeline(models / "model")
    pipeline.set_timesteps(3)
    assert make_guidance(asked_for, pipeline).titles == [title]


def test_the_titles_of_several_weights_name_each(options, models):
    guidance = make_guidance(replace(options, guidance_scale=[0, 1, 2]), load_pipeline(models / "model"))
    assert guidance.titles == [f"classifier-free guidance {weight}" for weight in (0, 1, 2)]


def test_variants_are_every_scale_with_every_push(options, models):
    """The pushes of one scale together, so that a grid's blocks read like a table."""
    options = replace(
        options, guidance_scale=[1, 2.5], classifier_scale=[0, 30], classifier=str(models / "classifier")
    )
    guidance = make_guidance(options, load_pipeline(models / "model"))
    assert guidance.titles == [
        f"classifier-free guidance {scale} and classifier guidance {push}"
        for scale, push in (("1", "0"), ("1", "30"), ("2.5", "0"), ("2.5", "30"))
    ]
    assert guidance.numbers == {"guidance_scale": [1, 1, 2.5, 2.5], "classifier_scale": [0, 30, 0, 30]}


def test_a_function_of_ones_own(options, models, tmp_path):
    (tmp_path / "mine.py").write_text("def ramp(log_snr):\n    return 3.0 if log_snr > -1 else 1.0\n")
    folder = run(replace(options, guidance_schedule=f"{tmp_path}/mine.py:ramp"))
    images, cost = drawn(models, TURNS, lambda level: 3.0 if level > -1 else 1.0)
    assert np.abs(pixels(folder, 6) - images).max() <= 1
    entry = manifest(folder)[0]
    assert entry["guidance_schedule"] == [1.0, 1.0, 3.0, 3.0] and "guidance_scale" not in entry
    assert entry["evaluations"] == cost[0] == {"unet": 6}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"guidance_interval": [1]}, "--guidance_interval is [1], but must be two numbers"),
        ({"guidance_interval": "middle"}, "--guidance_interval is middle, but must be two numbers: [low,high]"),
        ({"guidance_interval": [3, 1]}, "guidance_interval is 3 to 1, but needs low < high"),
        ({"guidance_interval": [1, 3], "guidance_interval_sigma": [1, 3]}, "not both"),
        ({"dynamic_thresholding": 0.0}, "dynamic_thresholding is 0.0, but must lie between 0 and 1"),
        ({"model": "unconditional", "guidance_scale": [2]}, "need a --guidance_model; use --classifier_scale"),
        (
            {"model": "unconditional", "guidance_schedule": [[0, 1]]},
            "This model is unconditional: --guidance_scale and",
        ),
        (
            {"model": "unconditional", "guidance_interval": [0, 1]},
            "guidance_interval has no effect without class_labels",
        ),
        ({"guidance_rescale": 2.0}, "guidance_rescale is 2.0, but must lie between 0 and 1"),
        ({"cfg_plus_plus": True, "guidance_scale": [0.5, 2]}, "--guidance_scale must lie between 0 and 1"),
        ({"cfg_plus_plus": True, "classifier": "classifier"}, "CFG++ splits classifier-free guidance"),
        ({"guidance_schedule": [[0, 1], [0, 2]]}, "its log-SNRs must be strictly increasing"),
        ({"guidance_schedule": [[0, 1, 2]]}, "each point must be two numbers"),
        ({"guidance_schedule": "ramp"}, "must be points [[log-SNR,w],…] or FILE.py:FUNCTION"),
        ({"guidance_schedule": "none.py:ramp"}, "There is no file none.py"),
        ({"guidance_schedule": [[0, 1]], "guidance_scale": [2]}, "--guidance_scale or --guidance_schedule, not both"),
        ({"guidance_model": "other_noise"}, "was trained on other noise levels than the model"),
        ({"guidance_model": "other_prediction"}, "predicts epsilon and the model v_prediction"),
        ({"guidance_model": "classifier"}, "is a classifier, not a diffusion model"),
        ({"classifier": "model"}, "is a diffusion model, not a classifier"),
        ({"classifier": "classifier_other_noise"}, "was trained on other noise levels than the model"),
        ({"classifier": "classifier_other_names"}, "both must have the same classes in the same order"),
        ({"classifier": "classifier", "classifier_scale": [np.inf]}, "--classifier_scale is [inf]"),
    ],
)
def test_refused_guidance_leaves_no_folder(changes, sentence, options, models):
    folders = ("model", "classifier", "guidance_model")
    changes = {key: str(models / value) if key in folders else value for key, value in changes.items()}
    with pytest.raises(UserError) as error:
        run(replace(options, **changes))
    assert sentence in str(error.value)
    assert not Path(options.output).exists()


def test_a_failing_function_is_one_sentence(options, tmp_path):
    (tmp_path / "mine.py").write_text("def broken(log_snr):\n    return None\n")
    with pytest.raises(UserError, match=r"mine.py:broken fails at log-SNR -19\.\d+ with TypeError"):
        run(replace(options, guidance_schedule=f"{tmp_path}/mine.py:broken"))


def test_other_guidance_does_not_continue_a_folder(options, models):
    run(replace(options, guidance_scale=[2], guidance_interval=[-2, 2]))
    for changes, named in (
        ({"guidance_interval": [-2, 3]}, "guidance_interval"),
        ({"guidance_interval": [-2, 2], "guidance_rescale": 0.5}, "guidance_rescale"),
        ({"guidance_interval": [-2, 2], "classifier": str(models / "classifier")}, "classifier_s"),
        ({}, "guidance_interval"),
    ):
        with pytest.raises(UserError, match=rf"drawn with other options \(.*{named}.* differ"):
            run(replace(options, guidance_scale=[2], **changes))


def test_a_foreign_picture_is_not_taken_for_a_sample(options):
    folder = run(options)
    Image.new("L", (8, 8)).save(image_file(folder, 5))
    with pytest.raises(UserError, match="000005.png was not written by this command: remove it"):
        run(options)


def test_from_the_command_line(tmp_path):
    argv = ["--model", "m", "--guidance_interval", "[-2,3.5]", "--guidance_schedule", "[[-6,1],[0,4]]"]
    parsed = parse_options(SampleOptions, [*argv, "--cfg_plus_plus", "true"], "test")
    expected = SampleOptions("m", guidance_interval=[-2, 3.5], guidance_schedule=[[-6, 1], [0, 4]], cfg_plus_plus=True)
    assert parsed == expected
    (tmp_path / "o.yaml").write_text("model: m\nguidance_interval: [-2, 3.5]\nguidance_schedule: f.py:g\n")
    parsed = parse_options(SampleOptions, ["--config", str(tmp_path / "o.yaml")], "test")
    assert parsed == SampleOptions("m", guidance_interval=[-2, 3.5], guidance_schedule="f.py:g")
    assert isinstance(parsed, GuidanceOptions)
