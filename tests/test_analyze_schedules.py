"""The real script, launched as its user would."""

import csv
import json

import pytest
import yaml

import analyze_schedules
import sample
from cardiff.analysis.options import parse_analysis
from cardiff.data import open_store
from cardiff.hub.serialization import save_pipeline
from tests.conftest import ROOT
from tests.support.tiny_models import tiny_pipeline

FEW = ["--schedules", "linear,cosine", "--max_images", 60, "--num_train_timesteps", 50, "--steps", 10]


def test_the_digits_are_compared_by_default(launch, tmp_path):
    result = launch("analyze_schedules.py", *FEW, "--output", tmp_path / "out")
    assert f"Look at {tmp_path / 'out' / 'report.md'}" in result.out
    assert "100%" in result.err  # of the progress bar
    with (tmp_path / "out/table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"linear", "cosine", "spectral"} < {row["schedule"] for row in rows}
    assert (tmp_path / "out/plane.png").stat().st_size > 10_000


def run(script, *options) -> None:
    """The script in this process, which saves the launch."""
    script.main([*map(str, options)])


@pytest.mark.usefixtures("undrawn")
def test_a_training_configuration_gives_data_and_schedule(tmp_path):
    config = ["--config", ROOT / "configs/digits_16_unconditional.yaml", "--scheduler.name", "sigmoid"]
    run(
        analyze_schedules,
        *config,
        *FEW,
        "--data.data_files",
        ROOT / "data/digits.parquet",
        "--data.resolution",
        8,
        "--output",
        tmp_path,
    )
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "60 images of 8×8 pixels" in table and "this configuration" in table


@pytest.mark.usefixtures("undrawn")
def test_a_model_gets_steps_of_its_own(tmp_path, capsys):
    """What is written is what sample.py takes."""
    model = tmp_path / "model"
    save_pipeline(tiny_pipeline(), model)
    data = ["--data.data_files", ROOT / "data/digits.parquet", "--data.resolution", 8, "--data.channels", 1]
    run(analyze_schedules, *FEW, *data, "--model", model, "--output", tmp_path / "out")
    section = yaml.safe_load((tmp_path / "out/local_error.yaml").read_text())["scheduler"]
    assert section["name"] == "knots" and section["log_snr"][0] == 10 and section["log_snr"][-1] == -10
    how = ["--solver", "ddpm", "--steps", 5, "--timesteps_from", tmp_path / "out/local_error.yaml", "--num_images", 2]
    run(sample, "--model", model, *how, "--output", tmp_path / "images")
    first = json.loads((tmp_path / "images/manifest.jsonl").read_text().splitlines()[0])
    assert len(first["timesteps"]) == 5

    with pytest.raises(SystemExit):
        run(analyze_schedules, *FEW, "--model", model, "--output", tmp_path / "other")
    assert "model has no config.yaml that says what it was trained on: give --config" in capsys.readouterr().err
    (model / "config.yaml").write_text((ROOT / "configs/digits_16_conditional.yaml").read_text())
    with pytest.raises(SystemExit):
        run(analyze_schedules, *FEW, "--model", model, "--output", tmp_path / "other")
    assert "--model draws images of 8 pixels and 1 channels, but the data have 16" in capsys.readouterr().err


def test_the_shipped_data_is_found_from_anywhere(tmp_path, monkeypatch):
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        _, data, _ = parse_analysis([], description="")
        assert data.data_files == "data/digits.parquet" and len(open_store(data, conditional=True)) == 1797


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--schedules", "cosine,lineer"], "did you mean 'linear'?"),
        (["--data.path", "/nowhere"], "data.path /nowhere does not exist"),
        (["--output", "/dev/null/here"], "--output /dev/null/here cannot be written"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--solver", "euler"], "solver is 'euler', but must be one of 'ddpm', 'ddim'"),
        (["--max_image", 5], "did you mean 'max_images'?"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path, capsys):
    """In this process, which saves the launch."""
    with pytest.raises(SystemExit) as exit_of:
        analyze_schedules.main([*map(str, [*FEW, "--output", tmp_path / "out", *options])])
    assert exit_of.value.code in (1, 2)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and sentence in error[0]
