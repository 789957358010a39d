"""Going on from the checkpoint of another folder, which may be anybody's."""

import hashlib
import importlib
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import train_conditional
from cardiff.config.run import parse_run
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.interrupt import SIGNALS
from cardiff.outputs import LOCK
from cardiff.training import checkpoint as checkpoints
from cardiff.training.resume import TrainingState, refuse_changes
from tests.conftest import ROOT, TINY_UNET


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("resume") / "run"
    options = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), *TINY_UNET, "--output_dir", str(folder)]
    options += ["--data.data_files", str(ROOT / "data/digits.parquet"), "--train.trackers", "[]"]
    options += ["--train.max_steps", "2", "--train.batch_size", "4", "--train.sample_every", "0"]
    train_conditional.main(options)
    return folder


@pytest.fixture
def source(run, tmp_path):
    """A copy of the run to spoil."""
    return shutil.copytree(run, tmp_path / "source")


@pytest.fixture
def resume(digits_options, tmp_path):
    """Train one more step in a new folder, from a source."""

    def go(source, *more):
        steps = ("--train.max_steps", "3", "--train.batch_size", "4")
        return train_conditional.main(
            [*digits_options, *steps, "--output_dir", str(tmp_path / "new"), "--resume_from", str(source), *more]
        )

    return go


def checkpoint_of(source):
    return checkpoints.list_checkpoints(source / "checkpoints")[-1]


def seal(checkpoint, **also):
    """Checksums that fit what lies there, as whoever crafted it would write them."""
    files = [p for p in checkpoint.rglob("*") if p.is_file() and p.name != "checksums.json"]
    sums = {p.relative_to(checkpoint).as_posix(): file_hash(p) for p in files} | also
    (checkpoint / "checksums.json").write_text(json.dumps(sums))


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/step-00000002"])
def test_from_a_folder(part, source, resume, tmp_path, capsys):
    assert resume(source / part)
    assert "Copied the checkpoint of step 2" in capsys.readouterr().out
    assert checkpoints.step_of(checkpoints.list_checkpoints(tmp_path / "new/checkpoints")[-1]) == 3
    assert resume(source / part)  # the run's own is newer now
    assert "is not used, since" in capsys.readouterr().out


def test_code_does_not_come_along(source, resume, tmp_path):
    """Neither the pipeline's source file nor a pickle, even if the checksums are theirs."""
    checkpoint, marker = checkpoint_of(source), tmp_path / "executed"
    (checkpoint / "pipeline_class_conditional.py").write_text(f"open({str(marker)!r}, 'w')")

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    for name in ("unet/diffusion_pytorch_model.bin", "training/optimizer.bin", "training/scheduler.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(Bomb()))
    seal(checkpoint)
    with pytest.raises(SystemExit):
        resume(source)
    for name in ("unet/diffusion_pytorch_model.bin", "training/optimizer.bin", "training/scheduler.pkl"):
        (checkpoint / name).unlink()
    seal(checkpoint)
    assert resume(source)
    assert not marker.exists()
    new = tmp_path / "new"
    assert all("executed" not in p.read_text() for p in new.rglob("*.py"))
    assert {p.suffix for p in new.rglob("*") if p.is_file() and p.name != LOCK} <= {
        ".json",
        ".jsonl",
        ".yaml",
        ".py",
        ".safetensors",
    }


def spoil_state(checkpoint, **changes):
    file = checkpoint / "training/state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    seal(checkpoint)


def spoil_tensors(checkpoint, name, change):
    tensors = load_file(checkpoint / name)
    change(tensors)
    save_file(tensors, checkpoint / name)
    seal(checkpoint)


def truncate(checkpoint, name):
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:1000])


CRAFTED = {
    "a damaged file": (
        lambda c: truncate(c, "training/unet.safetensors"),
        "is damaged .training/unet.safetensors does",
    ),
    "a missing file": (lambda c: (c / "training/optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "no checksums": (lambda c: (c / "checksums.json").unlink(), "checksums.json is missing"),
    "a list": (lambda c: (c / "checksums.json").write_text("[]"), "checksums.json must contain an object, not list"),
    "a path that climbs out": (
        lambda c: seal(c, **{"../../../victim.json": hashlib.sha256(b"").hexdigest()}),
        "lists '../../../victim.json', which Cardiff never writes",
    ),
    "an absolute path": (lambda c: seal(c, **{"/etc/passwd.json": "0"}), "lists '/etc/passwd.json', which Cardiff"),
    "another step": (lambda c: spoil_state(c, step=7), "state.json of .* has step 7"),
    "no state": (lambda c: spoil_state(c, more=1), "is not the state of a Cardiff training run"),
    "a state of another kind": (lambda c: spoil_state(c, config=[]), "is not the state of a Cardiff training run"),
    "other classes": (lambda c: spoil_state(c, class_names=["a"]), "contains a run of another model .class names"),
    "an index of pickles": (
        lambda c: ((c / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}"), seal(c)),
        "checksums.json lists 'unet/diffusion_pytorch_model.safetensors.index.json', which Cardiff never",
    ),
    "weights of another model": (
        lambda c: spoil_tensors(c, "training/unet.safetensors", lambda t: t.pop("conv_in.weight")),
        "does not match its own model configuration .'conv_in.weight'",
    ),
    "moments without a name": (
        lambda c: spoil_tensors(
            c, "training/optimizer.safetensors", lambda t: t.update(x=t["conv_in.bias/exp_avg"].clone())
        ),
        "does not match its own model configuration",
    ),
}


@pytest.mark.parametrize(("craft", "sentence"), CRAFTED.values(), ids=CRAFTED)
def test_a_damaged_or_crafted_checkpoint_is_one_sentence(craft, sentence, source, resume, tmp_path, capsys):
    craft(checkpoint_of(source))
    with pytest.raises(SystemExit):
        resume(source)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(sentence, error), error


def test_what_holds_no_checkpoint_and_another_model(source, resume, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, more, sentence in (
        (tmp_path / "empty", (), "empty contains no checkpoint: give the output folder of a training run."),
        (
            source,
            ("--scheduler.s", "0.01"),
            "scheduler.s was 0.008 and is 0.01): restore the old values, or choose ",
        ),
    ):
        with pytest.raises(SystemExit):
            resume(folder, *more)
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new/checkpoints").exists()


@pytest.mark.parametrize(
    ("kind", "option", "old", "new"),
    [
        ("classifier", "--train.validation_fraction=0.2", ("held_out", 0.2), "validation_fraction"),
        (
            "unconditional",
            "--train.loss_weighting=schedule_invariant",
            ("loss_weighting", "schedule_free"),
            "loss_weighting",
        ),
    ],
)
def test_a_checkpoint_from_before_an_option_was_renamed_goes_on(kind, option, old, new):
    """Its value counts, and not the default of the new name."""
    argv = ["--config", str(ROOT / f"configs/digits_16_{kind}.yaml"), "--output_dir", "out"]
    config = parse_run([*argv, option], kind=kind, description="")
    state = TrainingState(5, 5, None, None, [], config.labelled, config.to_dict())
    del state.config["train"][new]
    state.config["train"][old[0]] = old[1]
    assert refuse_changes(state, config, []) == []
    other = parse_run(argv, kind=kind, description="")
    if kind == "classifier":
        with pytest.raises(UserError, match="train.validation_fraction was 0.2 and is 0.1"):
            refuse_changes(state, other, [])
    else:
        notice = 'Resuming with train.loss_weighting changed from "schedule_invariant" to "uniform".'
        assert refuse_changes(state, other, []) == [notice]


# Killed between a checkpoint and what is due at the same step


class Killed(BaseException):
    pass


def files_of(folder):
    """Everything of a finished run that is the same for the same command, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".png", ".safetensors") or name == "best/evaluation.json":
            found[name] = file_hash(path)
        elif name == "logs/metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]
    return found


@pytest.fixture(scope="module")
def due_options():
    """Everything is due at steps 2 and 4."""
    options = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), *TINY_UNET]
    options += ["--data.data_files", str(ROOT / "data/digits.parquet"), "--train.trackers", "[]"]
    options += ["--train.max_steps", "4", "--train.batch_size", "8", "--train.sample_every", "2"]
    options += ["--train.sample_steps", "2", "--train.sample_images", "4", "--train.checkpoint_every", "2"]
    return [*options, "--train.evaluate_every", "2", "--train.evaluate_images", "12"]


@pytest.fixture(scope="module")
def whole(due_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("due") / "run"
    train_conditional.main([*due_options, "--output_dir", str(folder)])
    return files_of(folder)


KILLED_AT = {
    "before the grid": ("cardiff.training.samples.save_labelled_grid", "before"),
    "after the grid": ("cardiff.training.samples.save_labelled_grid", "after"),
    "before best": ("cardiff.training.samples.keep_best", "before"),
    "after best": ("cardiff.training.samples.keep_best", "after"),
    "before the root": ("cardiff.training.checkpoint.publish", "before"),
}


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize(("function", "when"), KILLED_AT.values(), ids=KILLED_AT)
def test_what_was_due_at_the_step_of_the_checkpoint_is_done(
    function, when, time, due_options, whole, tmp_path, monkeypatch
):
    """A run that was killed there ends exactly like one that was not."""
    calls, handlers = [], {number: signal.getsignal(number) for number in SIGNALS}
    module, name = function.rsplit(".", 1)
    real = getattr(importlib.import_module(module), name)

    def kill(*arguments):
        calls.append(name)
        if len(calls) == time and when == "before":
            raise Killed
        real(*arguments)
        if len(calls) == time:
            raise Killed

    monkeypatch.setattr(function, kill)
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        train_conditional.main([*due_options, "--output_dir", str(folder)])
    monkeypatch.undo()
    assert files_of(folder) != whole
    for number, handler in handlers.items():
        signal.signal(number, handler)  # in the place of the killed run's
    assert train_conditional.main([*due_options, "--output_dir", str(folder)])
    assert files_of(folder) == whole


def test_nothing_is_done_twice(due_options, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_conditional.main([*due_options, "--output_dir", str(folder)])
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/*") if path.name != "diffusion_pytorch_model"}
    monkeypatch.setattr("cardiff.training.samples.draw_averaged", None)
    assert train_conditional.main([*due_options, "--output_dir", str(folder)])
    assert all(path.stat().st_mtime_ns == before for path, before in times.items() if path.parent.name == "samples")
    before = len((folder / "logs/metrics.jsonl").read_text().splitlines())
    assert before == 4 / 2 * 2  # a loss and a distance at each of the two steps


def test_two_runs_do_not_share_a_folder(due_options, tmp_path, capsys):
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from cardiff.outputs import *\nFolderLock({str(tmp_path)!r})\nprint(1, flush=True)\ninput()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    owner.stdout.readline()
    with pytest.raises(SystemExit) as stop:
        train_conditional.main([*due_options, "--output_dir", str(tmp_path)])
    owner.communicate(b"\n")
    assert stop.value.code == 1 and [path.name for path in tmp_path.iterdir()] == [LOCK]
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"^error: .* is in use by another command .process {owner.pid} on .*: wait until", error)


PRECISIONS = {
    "channels_last": ["--train.channels_last", "true"],
    "bf16": ["--train.mixed_precision", "bf16"],
    "accumulation": ["--train.gradient_accumulation_steps", "2"],
    "compile": ["--train.compile", "true", "--train.channels_last", "true"],
    "long average": ["--train.ema_decay", "0.5"],
    "muon": ["--train.optimizer", "muon", "--train.channels_last", "true"],
    "all": ["--train.channels_last", "true", "--train.mixed_precision", "bf16", "--train.gradient_accumulation_steps"]
    + ["2", "--train.ema_decay", "0.5"],
}


@pytest.mark.parametrize("options", PRECISIONS.values(), ids=PRECISIONS)
def test_resuming_is_bit_exact(options, digits_options, tmp_path, monkeypatch):
    """Moments must lie in memory as the parameters do: the fused optimizer goes through both in one order."""
    compiled = torch.nn.Module.compile
    # Without a compiler, which takes a minute.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode, **how: compiled(self, backend="eager", **how))
    options = [*digits_options, *options, "--train.batch_size", "8", "--train.lr_schedule", "constant"]
    for folder, steps in (("whole", "6"), ("halves", "3"), ("halves", "6")):
        train_conditional.main([*options, "--train.max_steps", steps, "--output_dir", str(tmp_path / folder)])
    whole, halves = (
        {
            path.name: load_file(path)
            for path in sorted((tmp_path / folder / "checkpoints/step-00000006").rglob("*.safetensors"))
        }
        for folder in ("whole", "halves")
    )
    assert len(whole) == 3
    torch.testing.assert_close(halves, whole, rtol=0, atol=0)
