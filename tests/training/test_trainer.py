"""The trainer in one process: what it computes, what it refuses, and what it survives."""

import json
import resource
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import train_classifier
import train_conditional
import train_unconditional
from cardiff.config.run import SECTIONS, parse_run
from cardiff.diffusion import timestep_density
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.training import build as builder
from cardiff.training import callbacks
from cardiff.training.callbacks import Checkpoint
from cardiff.training.checkpoint import list_checkpoints
from cardiff.training.metrics import LossTotals
from cardiff.training.samples import grid_of
from cardiff.training.trainer import Trainer
from tests.conftest import ROOT, TINY_UNET
from tests.support.tiny_set import write_set


def train(folder: Path, *options) -> list[dict]:
    """Train in this process; return the log."""
    train_conditional.main([*map(str, options), "--output_dir", str(folder)])
    return [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def final_weights(folder: Path) -> str:
    return file_hash(folder / "unet/diffusion_pytorch_model.safetensors")


def build(folder: Path, *options) -> Trainer:
    argv = [*map(str, options), "--output_dir", str(folder)]
    return builder.build(parse_run(argv, kind="conditional", description=""))


def test_the_golden_loss_curve_does_not_move(tmp_path, digits_options):
    """Recorded once; a refactor must reproduce it, a change of the method must record it anew and say why."""
    log = train(tmp_path / "run", *digits_options, "--train.max_steps", 8, "--train.batch_size", 32)
    golden = json.loads((ROOT / "tests/golden_loss.json").read_text())
    for name in ("loss", "grad_norm", "learning_rate"):
        np.testing.assert_allclose([entry[name] for entry in log], golden[name], rtol=1e-4, err_msg=name)


def test_accumulation_changes_nothing_but_memory(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 4, "--train.batch_size", 32]
    whole = train(tmp_path / "whole", *options)
    parts = train(tmp_path / "parts", *options, "--train.gradient_accumulation_steps", 4)
    for name in ("loss", "grad_norm", "loss_q1", "loss_q4"):
        np.testing.assert_allclose([e[name] for e in parts], [e[name] for e in whole], rtol=2e-5, err_msg=name)


def test_the_averaged_weights_follow_the_recursion(tmp_path, digits_options):
    trainer = build(tmp_path, *digits_options, "--train.max_steps", 6, "--train.ema_decay", 0.5)
    expected = [p.detach().double().clone() for p in trainer.model.parameters()]
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
        # diffusers averages from its second step on: decay 0 at the first, then (1 + n)/(10 + n) up to ema_decay.
        n = trainer.global_step - 1
        decay = min(0.5, (1 + n) / (10 + n)) if n > 0 else 0.0
        for average, p in zip(expected, trainer.model.parameters(), strict=True):
            average.mul_(decay).add_((1 - decay) * p.detach().double())
    trainer.finish()
    for average, saved in zip(expected, trainer.averaged_model().parameters(), strict=True):
        torch.testing.assert_close(saved.double(), average, rtol=1e-5, atol=1e-7)


def test_weight_decay_shrinks_the_weights(tmp_path, digits_options):
    """Decoupled: from the same gradients, λ·η·w₀ less after the first step, for every weight."""
    options = ["--train.max_steps", 1, "--train.learning_rate", 0.01, "--train.lr_warmup_steps", 0]
    after = {}
    for decay in (0.0, 0.3):
        trainer = build(tmp_path / str(decay), *digits_options, *options, "--train.weight_decay", decay)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.step()
        after[decay] = [p.detach().clone() for p in trainer.model.parameters()]
        rate = trainer.optimizer.param_groups[0]["lr"]
        trainer.finish()
    assert rate == 0.01
    for initial, plain, decayed in zip(before, after[0.0], after[0.3], strict=True):
        torch.testing.assert_close(plain - decayed, 0.3 * rate * initial, rtol=1e-3, atol=1e-6)


def test_the_quarters_of_the_loss_rise_with_the_timestep():
    """Averages over the images of each, from the cleanest to the noisiest; none of a quarter without images."""
    totals = LossTotals("cpu")
    alone = SimpleNamespace(reduce=lambda tensor, _: tensor, gather=lambda tensor: tensor)
    totals.add(torch.tensor([1.0, 3.0]), torch.tensor([0, 249]), 1000)
    totals.add(torch.tensor([10.0, 100.0, 1000.0]), torch.tensor([250, 500, 999]), 1000)
    values, _ = totals.read(alone)
    assert [values[f"loss_q{quarter}"] for quarter in (1, 2, 3, 4)] == [2.0, 10.0, 100.0, 1000.0]
    assert values["loss"] == pytest.approx(1114 / 5)
    totals.add(torch.tensor([5.0]), torch.tensor([749]), 1000)
    assert totals.read(alone)[0] == {"loss": 5.0, "loss_q3": 5.0, "grad_norm": 0.0}


class _Waits(TorchDispatchMode):
    """Records the operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"):
            self.seen.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def test_a_step_that_logs_nothing_does_not_wait_for_the_device(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 4, "--train.log_every", 2, "--train.loss_weighting", "min_snr"]
    trainer = build(tmp_path, *options)
    with _Waits() as waits:
        trainer.step(), trainer.run_callbacks(), trainer.step()
        assert waits.seen == []
        trainer.run_callbacks()  # logs step 2
    assert waits.seen
    trainer.finish()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_learns(prediction_type, tmp_path, digits_options):
    options = ["--scheduler.prediction_type", prediction_type, "--train.lr_warmup_steps", 5]
    log = train(tmp_path, *digits_options, *options, "--train.max_steps", 60, "--train.learning_rate", 3e-3)
    first, last = (np.mean([entry["loss"] for entry in part]) for part in (log[:10], log[-10:]))
    assert last < 0.75 * first


@pytest.mark.parametrize(
    "options", [["--train.mixed_precision", "bf16"], ["--train.channels_last", "true"]], ids=lambda o: o[0]
)
def test_options_for_speed_stay_close(options, tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 3, *options]
    fast = train(tmp_path / "fast", *options)
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
    plain = train(tmp_path / "plain", *options[:-2])
    np.testing.assert_allclose([e["loss"] for e in fast], [e["loss"] for e in plain], rtol=2e-2)


@pytest.mark.slow
def test_a_compiled_unet_stays_close_and_loads(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 3]
    fast = train(tmp_path / "fast", *options, "--train.compile", "true")
    plain = train(tmp_path / "plain", *options)
    np.testing.assert_allclose([e["loss"] for e in fast], [e["loss"] for e in plain], rtol=1e-3)
    train(tmp_path / "fast", *options[:-1], 4)  # goes on without compilation: the names of the weights are the same


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(tmp_path, digits_options, capsys):
    options = [*digits_options, "--train.max_steps", 6, "--train.checkpoint_every", 2]
    train(tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    last = list_checkpoints(tmp_path / "damaged/checkpoints")[-1]
    weights = last / "training/unet.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    train(tmp_path / "damaged", *options)
    out = capsys.readouterr().out
    assert f"{last} is damaged (training/unet.safetensors does not match its checksum)" in out
    assert "Resuming from" in out and "step-00000004" in out
    assert final_weights(tmp_path / "damaged") == final_weights(tmp_path / "whole")
    assert file_hash(weights) == file_hash(tmp_path / "whole" / weights.relative_to(tmp_path / "damaged"))


def test_a_run_killed_before_it_published_its_last_checkpoint_is_mended(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 2]
    train(tmp_path, *options)
    published = final_weights(tmp_path)
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"of an earlier checkpoint")
    (tmp_path / "model_index.json").unlink()
    train(tmp_path, *options)
    assert final_weights(tmp_path) == published and (tmp_path / "model_index.json").exists()


def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path, digits_options, capsys):
    options = [*digits_options, "--train.max_steps", 4, "--train.checkpoint_every", 2]
    trainer = build(tmp_path, *options)
    checkpoint = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoint))
    root = tmp_path / "checkpoints"
    trainer.step(), trainer.run_callbacks(), trainer.step(), trainer.run_callbacks()
    assert [p.name for p in list_checkpoints(root)] == ["step-00000002"]
    before = final_weights(tmp_path)
    trainer.step()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file can grow beyond 20 kB
    try:
        checkpoint.save(trainer, must_succeed=False)
        assert "could not be written" in capsys.readouterr().out
        with pytest.raises(UserError, match="step 3 could not be written .* checkpoint is .*step-00000002"):
            checkpoint.save(trainer, must_succeed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in root.iterdir()] == ["step-00000002"]
    assert final_weights(tmp_path) == before
    trainer.finish()
    train(tmp_path, *options)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 9, "--train.checkpoint_every", 2, "--train.log_every", 4]
    trainer = build(tmp_path, *options)
    with pytest.raises(UserError, match=r"not finite at step 3; the last good checkpoint is .*step-00000002\."):
        while not trainer.done:
            if trainer.global_step == 2:
                trainer.loss.weights.fill_(torch.nan)
            trainer.step()
            trainer.run_callbacks()
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
    trainer.stop_requested.restore()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--unet.layers_per_block", 2], "unet.layers_per_block was 1 and is 2"),
        (["--scheduler.s", 0.01], "scheduler.s was 0.008 and is 0.01"),
        (["--scheduler.prediction_type", "epsilon"], 'scheduler.prediction_type was "v_prediction" and is "epsilon"'),
        (["--data.resolution", 8, "--data.upscale", "false"], "data.resolution was 16 and is 8"),
    ],
)
def test_resuming_another_model_is_refused(changed, sentence, tmp_path, digits_options, capsys):
    options = [*digits_options, "--train.max_steps", 1]
    train(tmp_path, *options)
    config = (tmp_path / "config.yaml").read_text()
    with pytest.raises(SystemExit):
        train(tmp_path, *options, *changed)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and sentence in error
    assert (tmp_path / "config.yaml").read_text() == config


def test_the_unconditional_twin_needs_a_folder_of_its_own(tmp_path, digits_options, capsys):
    train(tmp_path, *digits_options, "--train.max_steps", 1)
    twin = ["--config", str(ROOT / "configs/digits_16_unconditional.yaml"), *map(str, digits_options[2:])]
    with pytest.raises(SystemExit):
        train_unconditional.main([*twin, "--output_dir", str(tmp_path)])
    assert "conditional was true and is false" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "rows", "columns"), [(3, 3, 21), (10, 8, 8), (196, 8, 8)])
def test_the_grid_of_a_run_is_of_classes_spread_over_all(classes, rows, columns):
    labels, names, count = grid_of([f"class {i}" for i in range(classes)], 64)
    shown = [int(name.split()[1]) for name in names]
    assert count == rows * columns and labels == np.repeat(shown, columns).tolist()
    assert len(shown) == rows and shown[0] == 0 and shown[-1] == classes - 1
    assert max(np.diff(shown)) - min(np.diff(shown)) <= 1


def test_the_grid_of_an_unconditional_run_is_a_square():
    assert grid_of([], 64) == (None, [""] * 8, 64)
    assert grid_of([], 11) == (None, [""] * 3, 9)


def test_what_is_not_training_is_named_on_the_bar(tmp_path, digits_options, capsys):
    """A grid, an evaluation and a checkpoint can each take minutes."""
    options = ["--train.sample_every", 1, "--train.evaluate_every", 1, "--train.evaluate_images", 24]
    train(tmp_path, *digits_options, *options, "--train.max_steps", 1)
    bars = capsys.readouterr().err
    assert all(f"{doing}: " in bars for doing in ("training", "saving", "showing", "evaluating"))
    assert bars.count("sampling: ") >= 2 and "0/4" in bars and "0/24" in bars


def test_other_changes_are_allowed_and_noticed(tmp_path, digits_options, capsys):
    train(tmp_path, *digits_options, "--train.max_steps", 1)
    train(tmp_path, *digits_options, "--train.max_steps", 2, "--train.learning_rate", 0.5)
    assert "Resuming with train.learning_rate changed from 0.001 to 0.5." in capsys.readouterr().out
    train(tmp_path, *digits_options, "--train.max_steps", 2)
    assert "already trained to step 2" in capsys.readouterr().out


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_changed_images_are_noticed_and_the_same_ones_elsewhere_are_not(streaming, tmp_path, digits_options, capsys):
    write_set(tmp_path / "here", 0)
    options = ["--data.path", tmp_path / "here", "--data.resolution", 8, "--data.streaming", streaming]
    options = [*digits_options, "--data.data_files", "null", *options, "--train.batch_size", 4]
    train(tmp_path / "run", *options, "--train.max_steps", 1)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    options[options.index(tmp_path / "here")] = tmp_path / "there"
    train(tmp_path / "run", *options, "--data.cache_dir", tmp_path / "cache", "--train.max_steps", 2)
    told = capsys.readouterr().out
    assert "Resuming from" in told and "other images" not in told
    Image.new("L", (8, 8), 7).save(tmp_path / "there/bee/000.png")
    train(tmp_path / "run", *options, "--train.max_steps", 3)
    told = capsys.readouterr().out
    assert f"Resuming with other images: the run was not trained on {tmp_path / 'there'} so far." in told
    train(tmp_path / "run", *options, "--train.max_steps", 4)
    assert "other images" not in capsys.readouterr().out  # it is by now


def test_a_checkpoint_without_digests_of_its_data_goes_on(tmp_path, digits_options, capsys):
    train(tmp_path, *digits_options, "--train.max_steps", 1)
    (checkpoint,) = list_checkpoints(tmp_path / "checkpoints")
    state = json.loads((checkpoint / "training/state.json").read_text())
    assert state["data"].keys() == {"images", "held_out"}
    del state["data"]
    (checkpoint / "training/state.json").write_text(json.dumps(state))
    checksums = json.loads((checkpoint / "checksums.json").read_text())
    checksums["training/state.json"] = file_hash(checkpoint / "training/state.json")
    (checkpoint / "checksums.json").write_text(json.dumps(checksums))
    train(tmp_path, *digits_options, "--train.max_steps", 2)
    assert "Resuming from" in capsys.readouterr().out


def test_a_stream_is_resumed_bit_for_bit(tmp_path, digits_options):
    options = [*digits_options, "--data.streaming", "true", "--data.shuffle_buffer", 50]
    options += ["--train.lr_schedule", "constant", "--train.batch_size", 24]
    whole = train(tmp_path / "whole", *options, "--train.max_steps", 9)
    train(tmp_path / "parts", *options, "--train.max_steps", 5)
    parts = train(tmp_path / "parts", *options, "--train.max_steps", 9)
    assert [e["loss"] for e in parts] == [e["loss"] for e in whole]
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["loss", "information"])
def test_timesteps_that_follow_the_losses_are_resumed_bit_for_bit(kind, tmp_path, digits_options, monkeypatch):
    """Stopped between two updates of the density, so that the sums since the last one have to be kept."""
    monkeypatch.setattr(callbacks, "ADAPT_EVERY", 3)
    monkeypatch.setattr(timestep_density, "BINS", 4)
    options = [*digits_options, "--train.lr_schedule", "constant", "--train.batch_size", 24, "--train.log_every", 1]
    train(tmp_path / "even", *options, "--train.max_steps", 9)
    options += ["--train.timestep_sampling", kind]
    whole = train(tmp_path / "whole", *options, "--train.max_steps", 9)
    train(tmp_path / "parts", *options, "--train.max_steps", 5)
    parts = train(tmp_path / "parts", *options, "--train.max_steps", 9)
    assert [e["loss"] for e in parts] == [e["loss"] for e in whole]
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole") != final_weights(tmp_path / "even")
    state = json.loads((list_checkpoints(tmp_path / "parts/checkpoints")[-1] / "training/state.json").read_text())
    assert state["timesteps"]["kind"] == kind and len(state["timesteps"]["means"]) == 4
    # The published scheduler is that of the configuration.
    scheduler = "scheduler/scheduler_config.json"
    assert (tmp_path / "parts" / scheduler).read_text() == (tmp_path / "even" / scheduler).read_text()


def test_a_stream_needs_a_length(tmp_path, digits_options, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path, *digits_options, "--data.streaming", "true", "--train.max_steps", "null")
    assert "The length of a stream is not known in advance: set train.max_steps." in capsys.readouterr().err


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_trains_at_reduced_size(name, tmp_path, digits_options):
    """Its schedule, objective, precision and block types; on the digits, with few channels at a small size."""
    path = ROOT / "configs" / f"{name}.yaml"
    kind = yaml.safe_load(path.read_text())["kind"]
    section = SECTIONS[kind][0]
    network = yaml.safe_load(path.read_text())[section]
    levels = len(network["block_out_channels"])
    options = ["--config", path, f"--{section}.block_out_channels", [8] * levels, f"--{section}.norm_num_groups", 4]
    if network.get("attention_head_dim"):
        options += [f"--{section}.attention_head_dim", 4]
    options += ["--data.path", "parquet", "--data.data_files", ROOT / "data/digits.parquet", "--data.num_workers", 0]
    options += ["--data.image_column", "image", "--data.resolution", 16, "--data.upscale", "true"]
    options += ["--train.max_steps", 2, "--train.batch_size", 4, "--train.log_every", 1, "--output_dir", tmp_path]
    small = {"sample_images": 4, "sample_steps": 2, "validation_fraction": 0.01}
    accepted = {field.name for field in fields(SECTIONS[kind][2])}
    options += [f"--train.{option}={value}" for option, value in small.items() if option in accepted]
    {
        "conditional": train_conditional,
        "unconditional": train_unconditional,
        "classifier": train_classifier,
    }[kind].main([str(option) for option in options])
    log = [json.loads(line) for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 2 and np.isfinite(losses).all()
    shown = "reports" if kind == "classifier" else "samples"
    assert (tmp_path / shown / "step-00000002.png").exists()
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_there_are_the_shipped_configs():
    sets = [
        "aircraft_64",
        "cars_32",
        "cars_64",
        "cifar10_32",
        "digits_16",
        "fashion_mnist_32",
        "stanford_cars_128",
        "stanford_cars_64",
    ]
    expected = [f"{name}_{kind}" for name in sets for kind in ("classifier", "conditional", "unconditional")]
    assert sorted([*expected, "cars_32_judge"]) == CONFIGS


def test_stanford_cars_from_its_original_layout(tmp_path):
    from tests.support.stanford_cars_layout import write_stanford_cars

    write_stanford_cars(tmp_path / "cars")
    options = ["--config", ROOT / "configs/stanford_cars_64_conditional.yaml", *TINY_UNET, "--data.path"]
    options += [tmp_path / "cars", "--data.crop_to_box", "true", "--data.resolution", 16, "--data.num_workers", 0]
    options += ["--train.max_steps", 2, "--train.batch_size", 4, "--train.sample_every", 0, "--train.log_every", 1]
    assert len(train(tmp_path / "run", *options)) == 2
    names = json.loads((tmp_path / "run/model_index.json").read_text())["id2label"]
    assert len(names) == 4
