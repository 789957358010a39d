"""Averages of any width, from the training of a run to a model that is measured."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import average
import evaluate
import train_classifier
import train_conditional
from cardiff.errors import UserError
from cardiff.hub.serialization import find_model, load_classifier, load_pipeline
from cardiff.training.power_average import combination, shares
from cardiff.training.trainer import Trainer
from tests.conftest import ROOT

STEPS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run with a snapshot of both averages every two steps, and the weights of every step."""
    folder = tmp_path_factory.mktemp("averages")
    seen, step = [], Trainer.step

    def stepped(trainer):
        step(trainer)
        seen.append({name: p.detach().double().clone() for name, p in trainer.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stepped)
        train_conditional.main(options(folder / "run"))
    return folder / "run", seen


def options(folder, steps=STEPS, widths="[0.05,0.1]", **more):
    given = {
        **{"output_dir": folder, "config": ROOT / "configs/digits_16_conditional.yaml"},
        **{"data.data_files": ROOT / "data/digits.parquet", "unet.block_out_channels": "[8,16]"},
        **{"unet.norm_num_groups": 4, "unet.layers_per_block": 1, "unet.attention_head_dim": 8},
        **{"unet.down_block_types": "[DownBlock2D,AttnDownBlock2D]", "train.mixed_precision": "no"},
        **{"unet.up_block_types": "[AttnUpBlock2D,UpBlock2D]", "train.trackers": "[]", "train.sample_every": 0},
        **{"train.max_steps": steps, "train.batch_size": 4, "train.checkpoint_every": 0, "train.lr_warmup_steps": 0},
        **{"train.lr_schedule": "constant", "train.ema_widths": widths, "train.ema_snapshots": 12},
        **more,
    }
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def direct(seen, width):
    """The average of the weights that were seen, by the definition; float64."""
    weights = shares(width, len(seen), np.arange(1, len(seen) + 1, dtype=np.float64))
    return {name: sum(w * state[name] for w, state in zip(weights, seen)) for name in seen[0]}


def test_the_snapshots_are_the_averages(run):
    folder, seen = run
    files = sorted((folder / "averages").glob("step-*.safetensors"))
    assert [file.name for file in files] == [f"step-{n:08d}.safetensors" for n in range(2, STEPS + 1, 2)]
    for file, step in ((files[0], 2), (files[-1], STEPS)):
        found = load_file(file)
        assert len(found) == 2 * len(seen[0])
        for width in (0.05, 0.1):
            for name, expected in direct(seen[:step], width).items():
                torch.testing.assert_close(found[f"{width:g}/{name}"].double(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("width", [0.05, 0.075, 0.1, 0.15])
def test_a_width_after_training_is_that_of_training(width, run, tmp_path, capsys):
    """Against the average of all steps' weights; the profile that is missed bounds the rest."""
    folder, seen = run
    average.main(["--model", str(folder), "--width", str(width), "--output", str(tmp_path)])
    made = load_file(tmp_path / f"width-{width:g}/unet/diffusion_pytorch_model.safetensors")
    kept = [(each, step) for step in range(2, STEPS + 1, 2) for each in (0.05, 0.1)]
    _, missed = combination(kept, width, STEPS)
    for name, expected in direct(seen, width).items():
        moved = torch.stack([state[name] for state in seen]).std(0).max() * 4
        error = (made[name].double() - expected).abs().max()
        assert error <= missed * moved + 2e-6 * expected.abs().max(), name
    assert f"width {width:g}; {missed / 2:.1%} of the average" in capsys.readouterr().out
    record = json.loads((tmp_path / f"width-{width:g}/run.json").read_text())
    assert record["average"] == {"width": width, "step": STEPS, "missed": missed}


def test_resuming_changes_no_bit(run, tmp_path):
    folder, _ = run
    for steps in (10, STEPS):
        train_conditional.main(options(tmp_path / "run", steps, **{"train.ema_snapshots": 5 if steps == 10 else 12}))
        made = find_model(f"{tmp_path / 'run'}@0.08")  # anew, since the run has gone on
        assert json.loads((made / "run.json").read_text())["average"]["step"] == steps
    last = f"averages/step-{STEPS:08d}.safetensors"
    one, other = load_file(folder / last), load_file(tmp_path / "run" / last)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(SystemExit):
        train_conditional.main(options(tmp_path / "run", STEPS + 2, "[0.05]"))


def test_a_run_without_them_is_the_same(run, tmp_path):
    """And has no snapshots, of which a sentence tells."""
    folder, _ = run
    train_conditional.main(options(tmp_path / "run", widths="[]"))
    one, other = (load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in (folder, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "run/averages").exists()
    with pytest.raises(UserError, match=r"has no snapshots of averages: train with --train.ema_widths"):
        find_model(f"{tmp_path / 'run'}@0.1")


def test_half_precision_takes_half_of_the_space(run, tmp_path):
    folder, _ = run
    train_conditional.main(options(tmp_path / "run", **{"train.ema_snapshot_precision": "fp16"}))
    last = f"averages/step-{STEPS:08d}.safetensors"
    full, half = load_file(folder / last), load_file(tmp_path / "run" / last)
    assert all(half[name].dtype == torch.float16 and torch.equal(half[name], full[name].half()) for name in full)


def test_wherever_a_model_is_named_a_width_may_follow(run, tmp_path):
    folder, _ = run
    evaluate.main(["--model", f"{folder}@0.08", "--num_images", "20", "--network", "pixels", "--metrics", "fid",
                   "--steps", "2", "--replicates", "2", "--output", str(tmp_path / "report")])  # fmt: skip
    assert (tmp_path / "report/metrics.json").is_file()
    made = find_model(f"{folder}@0.08")
    assert made == folder / "averages/width-0.08"
    before = (made / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert find_model(f"{folder}@0.080") == made  # not made again
    assert (made / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns == before
    assert load_pipeline(made).id2label == load_pipeline(folder).id2label


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{}@wide", "must end in the width of an average, such as"),
        ("{}@0.5", "the width of an average is 0.5, but must lie above 0 and be 0.28 or less."),
    ],
)
def test_other_widths_are_one_sentence(model, sentence, run):
    with pytest.raises(UserError) as refused:
        find_model(model.format(run[0]))
    assert re.search(sentence, str(refused.value))


def test_a_width_that_the_snapshots_do_not_give_is_refused(run, tmp_path):
    last = f"averages/step-{STEPS:08d}.safetensors"
    (tmp_path / "averages").mkdir()
    shutil.copy(run[0] / "run.json", tmp_path)
    shutil.copy(run[0] / last, tmp_path / last)
    with pytest.raises(UserError, match="cannot be made from 2 snapshots of the widths 0.05, 0.1: .* of other steps"):
        find_model(f"{tmp_path}@0.25")


def test_snapshots_beyond_the_model_are_left_out(run, tmp_path):
    """Written just before the run was killed, or by a longer one that was there before."""
    shutil.copytree(run[0], tmp_path / "run", ignore=shutil.ignore_patterns("width-*"))
    last = tmp_path / f"run/averages/step-{STEPS:08d}.safetensors"
    tensors = {name: torch.full_like(tensor, 1e9) for name, tensor in load_file(last).items()}
    save_file(tensors, last.with_name("step-00000099.safetensors"), {"step": "99"})
    made = find_model(f"{tmp_path / 'run'}@0.08")
    expected = load_file(find_model(f"{run[0]}@0.08") / "unet/diffusion_pytorch_model.safetensors")
    found = load_file(made / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for file in last.parent.glob("step-000000[012]*"):
        file.unlink()
    with pytest.raises(UserError, match="has no snapshot of averages up to step 24, of which its model is"):
        find_model(f"{tmp_path / 'run'}@0.05")


def test_of_a_classifier(classifier_options, tmp_path):
    short = ["--train.max_steps", "6", "--train.batch_size", "4", "--train.ema_widths", "[0.05,0.1]"]
    train_classifier.main([*classifier_options, *short, "--output_dir", str(tmp_path / "run")])
    classifier, _ = load_classifier(find_model(f"{tmp_path / 'run'}@0.1"))
    kept = load_file(tmp_path / "run/averages/step-00000006.safetensors")
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(parameter.data, kept[f"0.1/{name}"], rtol=1e-5, atol=1e-6)


def test_a_full_disk_is_a_warning(tmp_path, small_files, capsys):
    """And training goes on; the model of the end is smaller than the limit of this test's files."""
    with pytest.raises(SystemExit):
        train_conditional.main(options(tmp_path / "run", 4))
    assert "Warning: the snapshot of the averages of step 1 could not be written" in capsys.readouterr().out
    assert not list((tmp_path / "run/averages").iterdir())


def test_a_damaged_snapshot_is_one_sentence(run, tmp_path):
    (tmp_path / "averages").mkdir()
    shutil.copy(run[0] / "run.json", tmp_path)
    (tmp_path / "averages/step-00000002.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="step-00000002.safetensors is damaged .*: remove it"):
        find_model(f"{tmp_path}@0.1")
