"""The learning rate over a run."""

import pytest

from cardiff.config.sections import TrainConfig
from cardiff.training.learning_rate import learning_rate_factor


def test_warmup_stable_decay_rises_stays_and_falls_to_zero():
    train = TrainConfig(lr_schedule="warmup_stable_decay", lr_warmup_steps=10, lr_decay_fraction=0.2)
    factor = learning_rate_factor(train, 100)
    assert [factor(step) for step in (0, 5, 10, 50, 80, 90, 95, 99, 100)] == [0, 0.5, 1, 1, 1, 0.5, 0.25, 0.05, 0]


def test_a_run_can_be_prolonged_from_a_checkpoint_before_the_decay():
    train = TrainConfig(lr_schedule="warmup_stable_decay", lr_warmup_steps=10, lr_decay_fraction=0.2)
    short, long = learning_rate_factor(train, 100), learning_rate_factor(train, 200)
    assert all(short(step) == long(step) for step in range(81)) and short(90) < long(90)


def test_without_a_warmup_it_starts_at_its_peak():
    factor = learning_rate_factor(TrainConfig(lr_schedule="warmup_stable_decay", lr_warmup_steps=0), 100)
    assert factor(0) == 1


@pytest.mark.parametrize(
    ("name", "at_60"), [("constant", 1), ("constant_with_warmup", 1), ("linear", 0.5), ("cosine", 0.5)]
)
def test_the_others_are_diffusers(name, at_60):
    factor = learning_rate_factor(TrainConfig(lr_schedule=name, lr_warmup_steps=20), 100)
    assert factor(60) == pytest.approx(at_60) and factor(10) == (1 if name == "constant" else 0.5)
