"""What a file says of its data set is not said of another one, in whatever way that is named."""

from pathlib import Path

import pytest
import yaml

from cardiff.config.data_set import OF_DATA_SET
from cardiff.config.sections import DataConfig
from tests.support.parsing import CIFAR, DIGITS, parse


def bound(config):
    """The fields that belong to a data set and are not at their defaults."""
    values = {name: getattr(config.data, name) for name in OF_DATA_SET}
    return {name: value for name, value in values.items() if value != getattr(DataConfig, name)}


def test_what_belongs_to_one_data_set_is_not_said_of_another(tmp_path, capsys):
    """In whatever way the other one is named; what is done to the images stays, and what is left is said aloud."""
    of_one = {name: f"the {name}" for name in OF_DATA_SET} | {"first_label": 7}
    every = of_one | {"path": "one", "fit": "pad", "resolution": 16}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"data": every}))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"data": {"path": "two", "license": "MIT"}}))
    one, two = str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")
    assert bound(parse("--config", one)).keys() == set(OF_DATA_SET) and not capsys.readouterr().err
    for argv, kept in (
        (["--config", one, "--data.path", "two"], {}),
        (["--config", one, "--data.path=two", "--data.image_column", "img"], {"image_column": "img"}),
        ([f"--config={one}", "--config", two], {"license": "MIT"}),
        (["--config", one, "--config", two, "--data.path", "three"], {}),
        (["--data.path", "two", "--config", one, "--data.path", "two"], {}),
    ):
        config = parse(*argv)
        assert bound(config) == kept and (config.data.fit, config.data.resolution) == ("pad", 16)
        told = capsys.readouterr().err
        assert told.startswith("note: data.") and told.count(f"of {one} is ignored, since it describes one") == 1
        assert all((f"data.{name} ({value})" in told) == (name not in kept) for name, value in of_one.items())
    assert bound(parse("--config", two, "--config", one)).keys() == set(OF_DATA_SET)
    assert not capsys.readouterr().err  # the licence of the earlier file is overridden by that of the later


def test_a_file_that_names_no_data_set_speaks_of_the_one_that_is_used(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("data: {label_column: species, license: CC0-1.0}")
    config = parse("--config", str(CIFAR), "--config", str(tmp_path / "mine.yaml"), "--data.path", "user/set")
    assert bound(config) == {"label_column": "species", "license": "CC0-1.0"}
    assert "data.image_column (img)" in capsys.readouterr().err


def test_the_same_data_set_by_another_path_to_it_keeps_its_fields(tmp_path, capsys):
    relative = parse("--config", str(DIGITS))
    absolute = parse("--config", str(DIGITS), "--data.data_files", str(Path("data/digits.parquet").absolute()))
    assert absolute.data.license == relative.data.license == "CC BY 4.0"
    assert parse("--config", str(CIFAR), "--data.path", yaml.safe_load(CIFAR.read_text())["data"]["path"]) == parse(
        "--config", str(CIFAR)
    )
    assert not capsys.readouterr().err


@pytest.mark.parametrize("files", ["mine.parquet", "[a.parquet, data/digits.parquet]", "my/*.parquet", "*.parquet"])
def test_a_format_is_another_data_set_with_other_files(files, capsys):
    config = parse("--config", str(DIGITS), "--data.data_files", files)
    assert config.data.license is None and config.data.data_files not in (None, "data/digits.parquet")
    assert "data.license (CC BY 4.0)" in capsys.readouterr().err


def test_another_data_set_and_another_schedule(capsys):
    """Both mechanisms on the same file."""
    config = parse("--config", str(DIGITS), "--scheduler.name", "sigmoid", "--data.path", "my_images")
    assert config.scheduler["name"] == "sigmoid" and config.scheduler["prediction_type"] == "v_prediction"
    assert bound(config) == {} and config.data.resolution == 16


def test_a_default_that_a_file_repeats_is_not_reported_as_left_out(tmp_path, capsys):
    (tmp_path / "one.yaml").write_text("data: {path: one, split: train, license: MIT}")
    parse("--config", str(tmp_path / "one.yaml"), "--data.path", "two")
    told = capsys.readouterr().err
    assert "data.license (MIT)" in told and "data.split" not in told
