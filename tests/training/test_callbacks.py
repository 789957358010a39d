"""What is done between the steps: when, in which order, and that a new callback is one class."""

import errno
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from cardiff.config.run import parse_run
from cardiff.errors import UserError
from cardiff.integrity import find_damage
from cardiff.interrupt import Stopped
from cardiff.training import build as builder
from cardiff.training.build import build
from cardiff.training.callbacks import Callback, Checkpoint, LossLog, Push
from cardiff.training.trainer import Trainer


class Notes(Callback):
    """Notes the steps at which it is called."""

    def __init__(self, every: int):
        super().__init__(every)
        self.noted: list = []

    def start(self, trainer: Trainer) -> None:
        self.noted.append("start")

    def run(self, trainer: Trainer) -> None:
        self.noted.append(trainer.global_step)

    def finish(self, trainer: Trainer) -> None:
        self.noted.append("finish")


def at(step: int, total: int = 10, stopping: bool = False) -> SimpleNamespace:
    """A trainer that stands after a step."""
    finished = step >= total
    last = Path(f"step-{step}")
    return SimpleNamespace(
        global_step=step, finished=finished, stopping=stopping, done=finished or stopping, last_checkpoint=last
    )


def due(callback: Callback, stopping: bool = False) -> list[int]:
    return [step for step in range(1, 11) if callback.due(at(step, stopping=stopping))]


def test_when_callbacks_are_due():
    """Every so often and at the end; a checkpoint also where a run is stopped, and the log with each checkpoint."""
    assert due(Notes(4)) == [4, 8, 10] and due(Notes(0)) == []
    assert due(Checkpoint(4)) == [4, 8, 10] and due(Checkpoint(0)) == [10]
    assert due(LossLog(3, Checkpoint(4))) == [3, 4, 6, 8, 9, 10] and due(LossLog(0, Checkpoint(0))) == [10]
    every_step = list(range(1, 11))
    assert due(Checkpoint(0), stopping=True) == every_step == due(LossLog(0, Checkpoint(0)), stopping=True)
    assert due(Notes(4), stopping=True) == [4, 8, 10]


class Published:
    """Stands for the background publisher."""

    def __init__(self):
        self.calls: list = []

    def push(self, path: Path) -> None:
        self.calls.append(path.name)

    def poll(self) -> None:
        self.calls.append("poll")

    def finish(self, path: Path | None) -> None:
        self.calls.append(("finish", path and path.name))


def test_a_push_follows_each_checkpoint_but_the_one_of_a_stopped_run():
    published = Published()
    push = Push(Checkpoint(4), published)
    for step in (3, 4):
        push.run(at(step))
    push.run(at(8, stopping=True))
    assert published.calls == ["poll", "step-4", "poll", "poll"]
    push.finish(at(8, stopping=True)), push.finish(at(10))
    assert published.calls[-2:] == [("finish", None), ("finish", "step-10")]
    assert not Push(Checkpoint(4), None).due(at(4))


def built(folder: Path, *options) -> Trainer:
    argv = [*map(str, options), "--output_dir", str(folder)]
    return build(parse_run(argv, kind="conditional", description=""))


def test_the_events_of_a_step_come_in_one_order(tmp_path, digits_options, monkeypatch):
    trainer = built(tmp_path, *digits_options, "--train.max_steps", 1)
    names, called = ["LossLog", "AverageSnapshots", "Checkpoint", "SampleGrid", "Evaluation", "Push"], []
    assert [type(callback).__name__ for callback in trainer.callbacks] == names
    for name, callback in zip(names, trainer.callbacks):
        monkeypatch.setattr(callback, "due", lambda trainer: True)
        monkeypatch.setattr(callback, "run", lambda trainer, name=name: called.append(name))
    trainer.step(), trainer.run_callbacks()
    assert called == names and trainer.done
    trainer.finish()


def test_a_callback_of_ones_own(tmp_path, digits_options):
    """One class, handed to the trainer."""
    trainer = built(tmp_path, *digits_options, "--train.max_steps", 5)
    mine = Notes(2)
    mine.start(trainer)
    trainer.callbacks = [*trainer.callbacks, mine]
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    trainer.finish()
    assert mine.noted == ["start", 2, 4, 5, "finish"]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_stopped_run_is_saved_and_goes_on(steps, tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", 5, "--train.checkpoint_every", 0]
    trainer = built(tmp_path, *options)
    for _ in range(steps - 1):
        trainer.step(), trainer.run_callbacks()
    trainer.step()
    trainer.stop_requested.number = signal.SIGTERM
    trainer.run_callbacks()
    assert trainer.done and not trainer.finished
    with pytest.raises(Stopped) as stopped:
        trainer.finish()
    assert stopped.value.exit_status == 143
    assert trainer.last_checkpoint == tmp_path / f"checkpoints/step-{steps:08d}"
    again = built(tmp_path, *options)
    assert again.global_step == again.start_step == steps and not again.done
    assert again.finish() is False


# Full disks


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.fixture
def drawn_every_step(tmp_path, digits_options):
    options = ["--train.max_steps", 3, "--train.sample_every", 1, "--train.checkpoint_every", 1]
    return built(tmp_path, *digits_options, *options)


def finished(trainer: Trainer) -> bool:
    while not trainer.done:
        trainer.step()
        trainer.run_callbacks()
    return trainer.finish()


def test_training_goes_on_without_a_grid(drawn_every_step, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("cardiff.training.samples.save_labelled_grid", full)
        drawn_every_step.step(), drawn_every_step.run_callbacks()
    assert finished(drawn_every_step)
    said = capsys.readouterr().out
    warning = (
        "Warning: the sample grid of step 1 could not be written ([Errno 28] No space left on device: 'somewhere'"
    )
    assert said.count("Warning") == 1 and f"{warning}); training continues." in said
    assert sorted(path.name[:13] for path in (tmp_path / "samples").iterdir()) == ["step-00000002", "step-00000003"]


def test_a_bug_in_a_callback_is_not_taken_for_a_full_disk(drawn_every_step, monkeypatch):
    def bug(*arguments):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    monkeypatch.setattr("cardiff.training.samples.save_labelled_grid", bug)
    drawn_every_step.step()
    with pytest.raises(FileNotFoundError):
        drawn_every_step.run_callbacks()
    drawn_every_step.finish()


def test_entries_of_the_log_are_kept_until_they_can_be_written(drawn_every_step, tmp_path, monkeypatch, capsys):
    log = tmp_path / "logs/metrics.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("cardiff.training.metrics.append_text", full)
        for _ in range(2):
            drawn_every_step.step(), drawn_every_step.run_callbacks()
        assert not log.exists() and drawn_every_step.log.has(2, "loss") and not drawn_every_step.log.has(3, "loss")
    assert finished(drawn_every_step)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
    assert capsys.readouterr().out.count("metrics.jsonl cannot be written (") == 1


def test_the_message_says_when_only_the_copy_failed(drawn_every_step, tmp_path, monkeypatch, capsys):
    drawn_every_step.step(), drawn_every_step.run_callbacks()
    with monkeypatch.context() as patch:
        patch.setattr("cardiff.training.checkpoint.publish", full)
        drawn_every_step.step(), drawn_every_step.run_callbacks()
        path = tmp_path / "checkpoints/step-00000002"
        assert f"Warning: {path} could not be copied to {tmp_path} ([Errno 28]" in capsys.readouterr().out
        assert drawn_every_step.last_checkpoint == path and find_damage(path) is None
        assert json.loads((tmp_path / "run.json").read_text())["step"] == 1
        drawn_every_step.step()
        with pytest.raises(
            UserError, match="step-00000003 could not be copied to .* Free some disk space and run the same"
        ):
            drawn_every_step.run_callbacks()
    drawn_every_step.finish()
    assert train_again(tmp_path, drawn_every_step) and json.loads((tmp_path / "run.json").read_text())["step"] == 3


def train_again(folder: Path, trainer: Trainer) -> bool:
    again = builder.build(trainer.config)
    assert again.global_step == 3
    return finished(again)


def test_older_checkpoints_that_stay_are_a_warning(drawn_every_step, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cardiff.training.checkpoint.prune", full)
    drawn_every_step.step(), drawn_every_step.run_callbacks()
    said = capsys.readouterr().out
    assert f"The checkpoints before {tmp_path / 'checkpoints/step-00000001'} could not be removed" in said
    assert json.loads((tmp_path / "run.json").read_text())["step"] == 1
    assert finished(drawn_every_step)
