"""Small evaluations of a run under way: logged, the best model kept, and no part of what is trained."""

import json

import pytest

import train_conditional
import train_unconditional
from cardiff.config.run import parse_run
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.options import EvaluateOptions
from cardiff.evaluation.samples import ModelFacts
from cardiff.hub.serialization import load_pipeline, weights_file
from cardiff.integrity import write_checksums

EVALUATED = ["--train.evaluate_every", "2", "--train.evaluate_images", "24", "--train.max_steps", "5"]


def evaluated(folder):
    lines = [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["evaluation_distance"] for line in lines if "evaluation_distance" in line}


def test_the_best_model_is_the_best_of_those_measured(tmp_path, digits_options):
    folder = tmp_path / "run"
    train_conditional.main([*digits_options, *EVALUATED, "--output_dir", str(folder)])
    found = evaluated(folder)
    assert list(found) == [2, 4, 5]  # and the end
    record = json.loads((folder / "best/evaluation.json").read_text())
    assert record["step"] == min(found, key=found.get)
    assert record["distance"]["value"] == min(found.values())
    assert record["protocol"]["reference"]["data"]["images"] == 1797
    assert load_pipeline(folder / "best").unet.config.num_class_embeds == 11
    assert ModelFacts(folder / "best").record["training"]["steps"] == record["step"]

    # The figure is the one that evaluate.py gives for the same samples.
    options = EvaluateOptions(
        output=str(tmp_path / "report"), model=str(folder / "best"), network="pixels", metrics="fid", num_images=24,
        steps=2, batch_size=64,
    )  # fmt: skip
    by_evaluate = json.loads((run(options) / "metrics.json").read_text())
    assert by_evaluate["metrics"]["fid"]["value"] == pytest.approx(record["distance"]["value"], rel=1e-3)
    assert by_evaluate["metrics"]["fid"]["standard_error"] == pytest.approx(
        record["distance"]["standard_error"], rel=1e-2
    )
    assert by_evaluate["model"]["training"]["steps"] == record["step"]


def test_evaluating_changes_nothing_that_is_trained(tmp_path, digits_options):
    options = [*digits_options, "--train.max_steps", "3", "--train.batch_size", "16"]
    folders = [tmp_path / name for name in ("with", "without")]
    train_unconditional.main([*_unconditional(options), "--output_dir", str(folders[1])])
    measured = [*_unconditional(options), "--train.evaluate_every", "1", "--train.evaluate_images", "8"]
    train_unconditional.main([*measured, "--output_dir", str(folders[0])])
    weights = [weights_file(folder).read_bytes() for folder in folders]
    assert weights[0] == weights[1] and not (folders[1] / "best").exists()


def test_a_resumed_run_keeps_the_best_of_before(tmp_path, digits_options):
    folder = tmp_path / "run"
    train_conditional.main([*digits_options, *EVALUATED, "--output_dir", str(folder)])
    record = json.loads((folder / "best/evaluation.json").read_text())
    record["distance"]["value"] = 1e-6  # nothing can be better
    (folder / "best/evaluation.json").write_text(json.dumps(record))
    write_checksums(folder / "best")
    train_conditional.main([*digits_options, *EVALUATED, "--train.max_steps", "6", "--output_dir", str(folder)])
    assert 6 in evaluated(folder)
    assert json.loads((folder / "best/evaluation.json").read_text()) == record


def test_a_network_that_cannot_be_had_is_refused_before_training(tmp_path, digits_options, capsys):
    with pytest.raises(SystemExit):
        train_conditional.main(
            [*digits_options, *EVALUATED, "--train.evaluate_network", "no/such", "--output_dir", str(tmp_path / "run")]
        )
    assert "no/such" in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train.evaluate_images", "1"], "train.evaluate_images is 1, but must be 2 or more"),
        (
            ["--data.streaming", "true", "--train.max_steps", "3"],
            "train.evaluate_every is not supported with data.streaming",
        ),
        (["--train.evaluate_every", "-1"], "train.evaluate_every is -1, but must be 0 or more"),
    ],
)
def test_refused(options, sentence, tmp_path, digits_options, capsys):
    arguments = [*digits_options, "--train.evaluate_every", "2", *options, "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit):
        parse_run(arguments, kind="conditional", description="")
    assert sentence in capsys.readouterr().err


def _unconditional(options: list[str]) -> list[str]:
    return [option.replace("digits_16_conditional", "digits_16_unconditional") for option in options]
