"""Runs that start from a model, through the scripts: what they take over, what they write, and how they resume."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DiffusionPipeline
from safetensors.torch import load_file

import publish
import train_classifier
import train_conditional
import train_unconditional
from cardiff.config.run import parse_run
from cardiff.config.schedules_by_name import alphas_cumprod_of
from cardiff.diffusion.draws import BatchDraws
from cardiff.diffusion.levels import log_snr_of, nearest_timesteps
from cardiff.hub.serialization import load_pipeline, save_pipeline
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.conftest import ROOT, TINY_UNET
from tests.hub.test_source import CELEBAHQ, CIFAR10, stock
from tests.support.tiny_models import tiny_pipeline, tiny_unet

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def options(tmp_path):
    """Options of a short run on the digits that name neither network nor schedule."""
    return [
        *("--data.path", "parquet", "--data.data_files", str(ROOT / "data/digits.parquet")),
        *("--data.horizontal_flip", "false", "--train.max_steps", "2", "--train.batch_size", "4"),
        *("--train.learning_rate", "1e-4", "--train.lr_warmup_steps", "0", "--train.mixed_precision", "no"),
        *("--train.sample_images", "4", "--train.sample_steps", "2", "--train.sample_every", "0"),
        *("--train.trackers", "[]", "--train.checkpoint_every", "0", "--train.log_every", "1"),
        *("--output_dir", str(tmp_path / "run")),
    ]


@pytest.fixture
def source(tmp_path):
    """A tiny model of the classes three, ant and nine, of grey images of 8×8 pixels."""
    pipeline = tiny_pipeline(id2label={0: "three", 1: "ant", 2: "nine"})
    save_pipeline(pipeline, tmp_path / "source")
    return tmp_path / "source"


def weights(folder, part="unet"):
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


def arguments_of(unet):
    """Those of a network that its images and classes do not decide."""
    free = ("sample_size", "num_class_embeds")
    found = {name: value for name, value in unet.config.items() if name not in free and not name.startswith("_")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@pytest.mark.parametrize("arguments", [CIFAR10, CELEBAHQ], ids=["cifar10", "celebahq"])
@pytest.mark.parametrize("script", [train_conditional, train_unconditional], ids=["conditional", "unconditional"])
def test_a_stock_pipeline_is_adopted_trained_and_published(script, arguments, options, tmp_path):
    """In the layout of google/ddpm-cifar10-32 and of google/ddpm-celebahq-256; diffusers loads the result."""
    pipeline = stock(arguments, tmp_path / "stock", flat=True)
    size = ["--data.upscale", "true", "--data.resolution", "32"]
    assert script.main([*options, *size, "--init_from", str(tmp_path / "stock")])
    publish.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "published")])
    if script is train_unconditional:
        loaded = DDPMPipeline.from_pretrained(tmp_path / "published")
        assert loaded.unet.config.num_class_embeds is None
    else:
        loaded = DiffusionPipeline.from_pretrained(tmp_path / "published", trust_remote_code=True)
        assert loaded.unet.config.num_class_embeds == 11
    assert arguments_of(loaded.unet) == arguments_of(pipeline.unet)
    torch.testing.assert_close(loaded.scheduler.betas, pipeline.scheduler.betas, rtol=5e-7, atol=0)
    assert loaded.scheduler.config.variance_type == "fixed_large"
    before, after = pipeline.unet.state_dict(), weights(tmp_path / "published")
    moved = [(after[name] - before[name]).abs().max() for name in before]
    assert 0 < max(moved) < 1e-3  # two steps from the source
    card = (tmp_path / "published/README.md").read_text()
    assert "It started from the weights of stock, whose licence is not stated." in card
    assert "--init_from stock" in card


def test_at_step_0_the_run_is_the_source(options, source, tmp_path, capsys):
    """Shown by two steps with a learning rate of next to nothing; the average, which is what is saved, too."""
    train_conditional.main([*options, "--init_from", str(source), "--train.learning_rate", "1e-30"])
    before, after = weights(source), weights(tmp_path / "run")
    rows = [3, 3, 3, 0, 3, 3, 3, 3, 3, 2, 3]  # three and nine; the others and the null class from the null class
    before["class_embedding.weight"] = before["class_embedding.weight"][rows]
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-28)
    assert load_pipeline(tmp_path / "run").id2label == dict(enumerate(DIGITS))
    out = capsys.readouterr().out
    assert f"Starting from {source}. 2 of 10 classes keep the embedding of the same name; the others start" in out
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["base_model"]["name"] == "source" and len(record["base_model"]["weights_sha256"]) == 64
    assert record["config"]["scheduler"]["prediction_type"] == "v_prediction"
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert written["init_from"] == str(source) and written["data"]["resolution"] == 8


def test_it_resumes_to_the_bit(options, source, tmp_path):
    """Also when the source is gone, from the configuration that was written."""
    start = ["--init_from", str(source)]
    train_conditional.main([*options, *start, "--train.max_steps", "4"])
    whole = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    train_conditional.main([*options, *start])
    shutil.copy(tmp_path / "run/config.yaml", tmp_path / "c.yaml")
    shutil.rmtree(source)
    train_conditional.main(
        ["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run"), "--train.max_steps", "4"]
    )
    parts = weights(tmp_path / "run")
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert json.loads((tmp_path / "run/run.json").read_text())["base_model"]["name"] == "source"


def test_a_run_that_has_begun_says_that_the_source_is_not_used(options, tmp_path, capsys):
    other = [*options, *TINY_UNET, "--data.resolution", "8", "--data.channels", "1"]
    train_conditional.main([*other, "--output_dir", str(tmp_path / "other")])
    train_conditional.main(other)
    assert "base_model" not in json.loads((tmp_path / "run/run.json").read_text())
    train_conditional.main([*other, "--init_from", str(tmp_path / "other"), "--train.max_steps", "3"])
    assert f"--init_from {tmp_path / 'other'} is not used: the run goes on" in capsys.readouterr().out
    assert "base_model" not in json.loads((tmp_path / "run/run.json").read_text())


def test_another_number_of_channels_and_another_size(options, source, tmp_path, capsys):
    more = ["--data.channels", "3", "--data.resolution", "16", "--data.upscale", "true"]
    train_conditional.main([*options, *more, "--init_from", str(source)])
    config = load_pipeline(tmp_path / "run").unet.config
    assert (config.in_channels, config.out_channels, config.sample_size) == (3, 3, 16)
    assert "The first and last convolution are fitted from 1 channels to 3." in capsys.readouterr().out


def test_an_average_of_a_run_is_a_source_too(options, source, tmp_path):
    train_conditional.main([*options, "--init_from", str(source), "--train.ema_widths", "[0.05,0.1]"])
    again = ["--init_from", f"{tmp_path / 'run'}@0.08", "--output_dir", str(tmp_path / "again")]
    train_conditional.main([*options, *again, "--train.learning_rate", "1e-30"])
    before, after = weights(tmp_path / "run/averages/width-0.08"), weights(tmp_path / "again")
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-28)


def test_a_bare_network_takes_the_schedule_of_the_run(options, tmp_path):
    tiny_unet(None).save_pretrained(tmp_path / "bare")
    given = ["--scheduler.name", "linear", "--init_from", str(tmp_path / "bare")]
    train_unconditional.main([*options, *given])
    scheduler = load_pipeline(tmp_path / "run").scheduler
    assert torch.equal(scheduler.alphas_cumprod, LinearScheduler().alphas_cumprod)


def test_a_classifier_starts_from_a_classifier(classifier_options, tmp_path, capsys):
    short = ["--train.max_steps", "1", "--train.batch_size", "4"]
    train_classifier.main([*classifier_options, *short, "--output_dir", str(tmp_path / "first")])
    again = ["--train.learning_rate", "1e-30", "--init_from", str(tmp_path / "first")]
    train_classifier.main([*classifier_options, *short, *again, "--output_dir", str(tmp_path / "second")])
    first, second = (weights(tmp_path / name, "classifier") for name in ("first", "second"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-28)
    assert "10 of 10 classes keep their row" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--unet.layers_per_block", "2"], "unet.layers_per_block is 2, but 1 in the network of --init_from"),
        (["--unet.act_fn", "mish"], "unet.act_fn is mish, but silu in the network of"),
        (["--scheduler.prediction_type", "epsilon"], "scheduler.prediction_type is epsilon, but .* v_prediction"),
        (["--scheduler.num_train_timesteps", "500"], "scheduler.num_train_timesteps is 500, but .* with 1000"),
        (["--scheduler.name", "sigmoid"], "scheduler.name is sigmoid, but .* give train.timesteps_from sigmoid"),
        (["--data.resolution", "5"], "data.resolution is 5, but the network's 2 resolutions halve it 1 times"),
        (["--train.timesteps_from", "linear", "--train.timestep_sampling", "loss"], "both say how often"),
        (["--train.timesteps_from", "linear", "--train.loss_weighting", "schedule_invariant"], "divides by that"),
    ],
)
def test_what_contradicts_the_source_is_one_sentence(given, sentence, options, source, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        train_conditional.main([*options, "--init_from", str(source), *given])
    err = capsys.readouterr().err
    assert end.value.code and len(err.strip().splitlines()) == 1
    assert re.search(sentence, err), err
    assert not (tmp_path / "run").exists()


def test_a_configuration_for_another_network_gives_all_but_the_network(options, source, capsys):
    """What its file says of network and noise levels is left out, with a note; the command line still contradicts."""
    file = ["--config", str(ROOT / "configs/cars_32_conditional.yaml")]
    given = [*file, *options, "--init_from", str(source)]
    config = parse_run(given, kind="conditional", description="")
    assert config.network.block_out_channels == [8, 16] and config.scheduler["prediction_type"] == "v_prediction"
    assert config.train.optimizer == "muon" and config.scheduler["name"] == "table"
    notes = " ".join(capsys.readouterr().err.split())
    assert "unet.block_out_channels" in notes and "are left out: the network is that of --init_from" in notes
    assert "scheduler.name" in notes and "(train.timesteps_from sigmoid trains as often at each level as" in notes
    with pytest.raises(SystemExit):
        parse_run([*given, "--unet.layers_per_block", "3"], kind="conditional", description="")
    assert "unet.layers_per_block is 3, but 1 in the network of" in capsys.readouterr().err
    same = ["--init_from", "cars_32_unconditional", "--data.resolution", "32"]
    parse_run([*file, *options, *same], kind="conditional", description="")
    assert "left out" not in capsys.readouterr().err


def test_dropout_and_what_only_sampling_needs_are_free(options, source):
    config = parse_run(
        [*options, "--init_from", str(source), "--unet.dropout", "0.1", "--scheduler.variance_type", "fixed_large"],
        kind="conditional",
        description="",
    )
    assert config.network.dropout == 0.1 and config.scheduler["variance_type"] == "fixed_large"


def test_other_kinds_and_half_a_source_are_refused(options, classifier_options, source, tmp_path, capsys):
    for main, given, sentence in (
        (train_classifier.main, ["--init_from", str(source)], "is a model of the kind conditional"),
        (train_classifier.main, ["--init_from", "cars_32_unconditional"], "is a model of the kind unconditional"),
        (train_classifier.main, ["--init_revision", "main"], "--init_revision is given without --init_from"),
        (train_classifier.main, ["--init_from", str(tmp_path / "nowhere")], "nowhere is not a folder"),
    ):
        with pytest.raises(SystemExit):
            main([*classifier_options, "--output_dir", str(tmp_path / "run"), *given])
        assert sentence in capsys.readouterr().err


def test_training_visits_the_levels_of_another_schedule():
    """Each of T′ levels equally often, at the nearest timestep of the model: the exact loss is that schedule's."""
    scheduler = CosineScheduler().to_stock()
    other = log_snr_of(alphas_cumprod_of({"name": "linear"}))
    visited = nearest_timesteps(scheduler, other)
    draws = BatchDraws(0, 4096, range(4096), 1000, visited=visited)
    drawn = np.concatenate([draws(step, (1, 1, 1), torch.device("cpu")).timesteps.numpy() for step in range(25)])
    counts, expected = np.bincount(drawn, minlength=1000), np.bincount(visited, minlength=1000) / 1000
    assert (counts[expected == 0] == 0).all()
    deviation = (counts - len(drawn) * expected)[expected > 0] / np.sqrt(len(drawn) * expected[expected > 0])
    assert abs(deviation).max() < 5 and 0.9 < (deviation**2).mean() < 1.2  # χ² of a multinomial
    # The error of the ideal denoiser of pixels of variance v in ε, averaged over what is visited and over the levels.
    own, variance = log_snr_of(scheduler.alphas_cumprod.double().numpy()), 0.09

    def error(log_snr):
        return variance * np.exp(log_snr) / (1 + variance * np.exp(log_snr))

    assert error(own[visited]).mean() == pytest.approx(error(other).mean(), rel=2e-3)
    assert error(own).mean() != pytest.approx(error(other).mean(), rel=0.1)


def test_a_run_at_the_levels_of_another_schedule_publishes_its_own(options, source, tmp_path):
    given = ["--init_from", str(source), "--train.timesteps_from", "sigmoid", "--train.sample_every", "2"]
    train_conditional.main([*options, *given])
    expected = load_pipeline(source).scheduler.alphas_cumprod
    assert torch.equal(load_pipeline(tmp_path / "run").scheduler.alphas_cumprod, expected)
    assert (tmp_path / "run/samples/step-00000002.png").exists()


def test_gradient_checkpointing_changes_no_bit(options, source, tmp_path):
    for name, given in (("plain", "false"), ("less", "true")):
        run = [*options, "--init_from", str(source), "--train.gradient_checkpointing", given]
        train_conditional.main([*run, "--output_dir", str(tmp_path / name)])
    plain, less = weights(tmp_path / "plain"), weights(tmp_path / "less")
    assert all(torch.equal(plain[name], less[name]) for name in plain)
