"""Settings and runs: their names, folders and cost."""

import re
from pathlib import Path

from cardiff.evaluation.compare.candidates import Candidate, Setting, Trial, file_name, shortest


def test_a_name_becomes_a_folder():
    for safe in ("conditional", "my model 2", "Coupé", "a=b,c"):
        assert file_name(safe) == safe
    unsafe = ["a/b", "a:b", "..", ".", "x.", "nul\0", "a\nb", "é" * 200, "a?b", "a*b"]
    made = [file_name(name) for name in unsafe]
    assert len(set(made)) == len(unsafe)
    for name in made:
        assert re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]+", name) and len(name.encode()) <= 110
        assert not name.startswith(".") and not name.endswith((".", " "))


def test_every_scale_is_told_from_every_other():
    scales = [1.0, 1.5, 1.00000001, -2.0, 1e-7, 1 / 3]
    assert [shortest(scale) for scale in scales[:2]] == ["1", "1.5"]
    assert [float(shortest(scale)) for scale in scales] == scales
    assert len({Setting("dpm", 5, scale).folder for scale in scales}) == len(scales)


def test_the_cost_of_a_setting():
    assert [Setting("dpm", 10, w).cost for w in (None, 0.0, 1.0, 2.0)] == [10, 10, 10, 20]


def test_a_setting_without_the_metric_is_the_last():
    without = Trial(3, {}, None, [], None, None, None, Path("."))
    setting = Setting("dpm", 2, 1.0)
    candidate = Candidate("a", [], [setting], {setting: [without]})
    assert candidate.loss(setting, "diversity", 1.0) == float("inf")
