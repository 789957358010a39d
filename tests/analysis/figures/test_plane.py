"""The plane shows and names its points."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from cardiff.analysis.figures.plane import draw_plane
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import point_of
from tests.analysis.figures.conftest import HOSTILE, pixels


def test_the_plane_is_drawn_without_a_family(data, schedules, tmp_path):
    """Of a few tiny images every member can be nearly idle, which must not end an analysis at its last figures."""
    spectrum = merged(data.model.spectrum, 0.1)
    points = {m.name: (point_of(spectrum, m.log_snr, "ddim", 50), m.leaks, False) for m in schedules}
    draw_plane(points, {}, [], {"pixels": [], "octaves": []}, "ddim", 50, tmp_path / "plane.png")
    assert pixels(tmp_path / "plane.png").shape == (990, 1500, 3)


def test_the_plane_names_its_points_without_covering_names(data, schedules, tmp_path, monkeypatch):
    spectrum = merged(data.model.spectrum, 0.1)
    points = {m.name: (point_of(spectrum, m.log_snr, "ddim", 50), m.leaks, False) for m in schedules}
    line = [point_of(spectrum, np.linspace(12, last, 1000), "ddim", 50) for last in (-12, -11, -10)]
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    family = dict(zip((0.0, 1.0, 2.0), line))
    draw_plane(points, family, line, {"pixels": line, "octaves": line}, "ddim", 50, tmp_path / "plane.png")
    assert pixels(tmp_path / "plane.png").shape == (990, 1500, 3)
    for axis in drawn[0].axes:
        assert axis.get_yscale() == "log"
        texts = {text.get_text(): text.get_window_extent() for text in axis.texts}
        assert set(texts) == {*points, "κ=2"}
        boxes = list(texts.values())
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_of_points_are_no_mathematics(data, schedules, tmp_path):
    named = [replace(m, name=name) for m, name in zip(schedules, HOSTILE)]
    spectrum = merged(data.model.spectrum)
    stand = {m.name: (point_of(spectrum, m.log_snr, "ddpm", 10), m.leaks, False) for m in named}
    line = [point for point, *_ in stand.values()]
    bounds = {"pixels": line, "octaves": line}
    draw_plane(stand, {0.0: line[0]}, line, bounds, "ddpm", 10, tmp_path / "plane.png")
    assert pixels(tmp_path / "plane.png").std() > 5
