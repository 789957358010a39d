"""The samples of a model, and the best model of a training run."""

import math

import numpy as np
import pytest

from cardiff.evaluation.samples import keep_best, labels_as_in
from cardiff.integrity import check_model, listed_files


def test_labels_are_as_frequent_as_in_the_data_at_every_beginning():
    shares = np.array([5.0, 1.0, 3.0])
    drawn = np.array(labels_as_in(shares, 90))
    for count in range(1, 91):
        expected = shares / 9 * count
        assert np.abs(np.bincount(drawn[:count], minlength=3) - expected).max() <= 1


def saving(text):
    return lambda folder: (folder / "model.json").write_text(text)


def test_the_best_model_is_kept(tmp_path):
    best = tmp_path / "best"
    kept = [keep_best(best, {"distance": {"value": value}}, saving(str(value))) for value in (3.0, 2.0, 2.5, 2.0, 1.0)]
    assert kept == [True, True, False, False, True]
    assert (best / "model.json").read_text() == "1.0"
    check_model(best)
    assert set(listed_files(best)) == {"model.json", "evaluation.json"}
    assert not keep_best(best, {"distance": {"value": math.nan}}, saving("no number"))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", "1.1"),
        ("evaluation.json", "{"),
        ("evaluation.json", '{"distance": {"value": 0.5}}'),
        ("checksums.json", "[" * 100_000),
    ],
)
def test_a_best_model_that_is_damaged_is_replaced(name, content, tmp_path, caplog):
    best = tmp_path / "best"
    keep_best(best, {"distance": {"value": 1.0}}, saving("1.0"))
    (best / name).write_text(content)
    assert keep_best(best, {"distance": {"value": 9.0}}, saving("9"))
    assert (best / "model.json").read_text() == "9" and "The best model so far is damaged" in caplog.text


def test_the_best_model_of_an_earlier_version_is_kept(tmp_path, caplog):
    """It has no checksums."""
    best = tmp_path / "best"
    keep_best(best, {"distance": {"value": 1.0}}, saving("1.0"))
    (best / "checksums.json").unlink()
    assert not keep_best(best, {"distance": {"value": 9.0}}, saving("9")) and not caplog.text
    for content in ('{"distance": 3}', '{"distance": {"value": "1.0"}}', "[]", '{"distance": {"value": NaN}}'):
        (best / "evaluation.json").write_text(content)
        (best / "checksums.json").unlink(missing_ok=True)
        assert keep_best(best, {"distance": {"value": 9.0}}, saving("9"))
