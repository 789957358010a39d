"""What is done between the steps: when, in which order, and that a new callback is one class."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from cardiff.config.run import parse_run
from cardiff.interrupt import Stopped
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
    names, called = ["LossLog", "Checkpoint", "SampleGrid", "Evaluation", "Push"], []
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
