"""Which changes of a configuration a resumed run accepts, reports or refuses."""

from dataclasses import replace

import pytest

from cardiff.config.run import SECTIONS
from cardiff.errors import UserError
from cardiff.training.resume import TrainingState, refuse_changes
from tests.support.parsing import DIGITS, parse


def state_of(config):
    return TrainingState(5, 5, None, None, ["ant", "bee"], config.labelled, config.to_dict())


def test_the_state_reads_back(tmp_path):
    state = state_of(parse("--config", str(DIGITS)))
    state.save(tmp_path)
    assert TrainingState.load(tmp_path) == state
    assert refuse_changes(TrainingState.load(tmp_path), parse("--config", str(DIGITS)), ["ant", "bee"]) == []


def test_options_that_are_newer_than_a_checkpoint_have_their_defaults():
    config = parse("--config", str(DIGITS))
    state = state_of(config)
    del state.config["data"]["first_label"], state.config["train"]["evaluate_every"], state.config["unet"]["dropout"]
    assert refuse_changes(state, config, ["ant", "bee"]) == []
    changed = replace(config, data=replace(config.data, first_label=1))
    assert refuse_changes(state, changed, ["ant", "bee"]) == ["Resuming with data.first_label changed from 0 to 1."]


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--unet.layers_per_block=3", "unet.layers_per_block was 1 and is 3"),
        ("--scheduler.s=0.01", "scheduler.s was 0.008 and is 0.01"),
        ("--scheduler.prediction_type=epsilon", "scheduler.prediction_type was"),
        ("--data.resolution=32", "data.resolution was 16 and is 32"),
    ],
)
def test_another_model_is_refused(option, shown):
    before, now = parse("--config", str(DIGITS)), parse("--config", str(DIGITS), option)
    with pytest.raises(UserError, match="out contains a run of another model") as error:
        refuse_changes(state_of(before), now, ["ant", "bee"])
    assert shown in str(error.value)


def test_other_classes_and_kinds_are_refused():
    config = parse("--config", str(DIGITS))
    with pytest.raises(UserError, match="class names was"):
        refuse_changes(state_of(config), config, ["ant", "cat"])
    with pytest.raises(UserError, match="conditional was true and is false"):
        refuse_changes(state_of(config), replace(config, kind="unconditional"), ["ant", "bee"])
    classifier = parse(kind="classifier")
    with pytest.raises(UserError, match="out contains a unet run, not a classifier run: choose another"):
        refuse_changes(state_of(config), classifier, ["ant", "bee"])
    with pytest.raises(UserError, match="out contains a classifier run, not a unet run"):
        refuse_changes(state_of(classifier), config, ["ant", "bee"])


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--classifier.layers_per_block=3", "classifier.layers_per_block was 2 and is 3"),
        ("--train.validation_fraction=0.2", "train.validation_fraction was 0.1 and is 0.2"),
        ("--train.seed=1", "train.seed was 0 and is 1"),
    ],
)
def test_another_classifier_or_other_held_out_images_are_refused(option, shown):
    before, now = parse(kind="classifier"), parse(option, kind="classifier")
    with pytest.raises(UserError, match="out contains a run of another model") as error:
        refuse_changes(state_of(before), now, ["ant", "bee"])
    assert shown in str(error.value)


def test_other_changes_of_a_classifier_are_allowed():
    before, now = parse(kind="classifier"), parse("--train.report_every=7", kind="classifier")
    assert refuse_changes(state_of(before), now, ["ant", "bee"]) == []
    nothing = ["--train.validation_fraction=0"]
    before, now = parse(*nothing, kind="classifier"), parse(*nothing, "--train.seed=1", kind="classifier")
    notices = refuse_changes(state_of(before), now, ["ant", "bee"])
    assert notices == ["Resuming with train.seed changed from 0 to 1."]


def test_other_changes_are_reported_or_silent():
    before = state_of(parse("--config", str(DIGITS)))
    louder = parse("--config", str(DIGITS), "--train.learning_rate=1e-4", "--train.batch_size=32")
    assert refuse_changes(before, louder, ["ant", "bee"]) == [
        "Resuming with train.batch_size changed from 64 to 32.",
        "Resuming with train.learning_rate changed from 0.001 to 0.0001.",
    ]
    silent = parse("--config", str(DIGITS), "--train.max_steps=900", "--train.sample_every=7", "--data.num_workers=2")
    assert refuse_changes(before, silent, ["ant", "bee"]) == []


@pytest.mark.parametrize("kind", SECTIONS)
def test_what_a_resumed_run_may_change_is_declared_beside_the_fields(kind):
    config = parse(kind=kind)
    keys = {f"{section}.{key}" for section, options in config.to_dict().items() for key in options}
    of_network = {key for key in keys if key.split(".")[0] in (config.network_name, "scheduler")}
    refused = {key for key in keys if config.on_resume(key) == "refuse"}
    chosen = {"train.validation_fraction", "train.seed"} if kind == "classifier" else set()
    assert refused == of_network | {"data.resolution", "data.channels", "train.optimizer", "train.ema_widths"} | chosen
    assert config.on_resume("scheduler.of_before") == "refuse" and config.on_resume("train.of_before") == "report"
    ignored = {"data.num_workers", "data.license", "train.epochs", "train.max_steps", "train.keep_checkpoints_every"}
    reported = {"data.path", "data.horizontal_flip", "train.batch_size", "train.learning_rate", "train.ema_decay"}
    assert {config.on_resume(key) for key in ignored} == {"ignore"}
    assert {config.on_resume(key) for key in reported} == {"report"}


def test_a_seed_that_chose_no_held_out_images_may_change():
    config = parse("--train.validation_fraction=0", kind="classifier")
    assert config.on_resume("train.seed") == "report"
