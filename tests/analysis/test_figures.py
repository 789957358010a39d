"""The figures are written, of the size promised, and show the data and schedules they are given."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cardiff.analysis import figures
from cardiff.analysis.measures import measure_data, measure_schedule, merged
from cardiff.analysis.optimum import point_of
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of
from cardiff.diffusion.levels import log_snr_of


@pytest.fixture(scope="module")
def data():
    return measure_data(smooth_images(40, 3, 16, seed=0), np.arange(40) % 4)


@pytest.fixture(scope="module")
def schedules(data):
    return measured(
        ["linear", "cosine", "JSD", "Laplace", "linear λ", "EDM ρ=7", "quadratic", "Cauchy", "constant"], data
    )


def smooth_images(count: int, channels: int, size: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, channels, size // 4, size // 4))
    return coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)


def measured(names, data):
    return [measure_schedule(name, alphas_cumprod_of(PUBLISHED[name]), data) for name in names]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("draw", "height"), [("curves", 4.2), ("structure", 6.0), ("octaves", 5.8), ("information", 6.6)]
)
def test_a_figure_of_schedules_has_its_size_and_shows_them(draw, height, schedules, tmp_path):
    function = getattr(figures, f"draw_{draw}")
    function(schedules, tmp_path / "all.png")
    function(schedules[1:], tmp_path / "fewer.png")
    picture = pixels(tmp_path / "all.png")
    assert picture.shape == (round(height * figures.DPI), figures.WIDTH * figures.DPI, 3)
    assert 5 < picture.std() and not np.array_equal(picture, pixels(tmp_path / "fewer.png"))
    edge = np.concatenate([picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()])
    assert edge.min() == 255  # nothing is cut off at the border


HOSTILE = ["$a|b*_x.py:f", "_lead$x^{$", "Ba$$in", r"\frac{"]


@pytest.mark.parametrize("draw", ["curves", "structure", "octaves", "information"])
def test_names_are_no_mathematics_and_stay_in_the_legend(draw, schedules, tmp_path, monkeypatch):
    """Every schedule with a style of its own is in the legend, with its name as it is."""
    seen, legend = [], Figure.legend
    monkeypatch.setattr(Figure, "legend", lambda *a, **k: seen.append(legend(*a, **k)) or seen[-1])
    named = [replace(m, name=name) for m, name in zip(schedules, HOSTILE * 3)]
    getattr(figures, f"draw_{draw}")(named[:4], tmp_path / "named.png")
    assert pixels(tmp_path / "named.png").std() > 5
    if draw != "octaves":  # its legend is of octaves
        texts = [text.get_text().strip().replace(r"\$", "$") for text in seen[0].get_texts()]
        assert texts == HOSTILE


def test_names_of_points_and_rows_are_no_mathematics(data, schedules, tmp_path):
    named = [replace(m, name=name) for m, name in zip(schedules, HOSTILE)]
    figures.draw_noising_strip(named, data.images, 0, tmp_path / "strip.png")
    figures.draw_density(named, data.model.spectrum, tmp_path / "density.png")
    spectrum = merged(data.model.spectrum)
    stand = {m.name: (point_of(spectrum, m.log_snr, "ddpm", 10), m.leaks, False) for m in named}
    line = [point for point, *_ in stand.values()]
    bounds = {"pixels": line, "octaves": line}
    figures.draw_plane(stand, {0.0: line[0]}, line, bounds, "ddpm", 10, tmp_path / "plane.png")
    assert all(pixels(tmp_path / f"{name}.png").std() > 5 for name in ("strip", "density", "plane"))


def test_information_without_labels_leaves_the_classes_out(tmp_path):
    bare = measure_data(smooth_images(20, 1, 16, seed=0), None)
    figures.draw_information(measured(["linear", "cosine"], bare), tmp_path / "information.png")
    assert pixels(tmp_path / "information.png").std() > 5


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 128)])
def test_the_strip_shows_the_image_going_under(channels, size, schedules, tmp_path):
    images = smooth_images(3, channels, size, seed=1)
    chosen = schedules[:2]
    figures.draw_noising_strip(chosen, images, 0, tmp_path / "a.png")
    figures.draw_noising_strip(chosen, images, 0, tmp_path / "same.png")
    figures.draw_noising_strip(chosen, 255 - images, 0, tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "same.png"))
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    picture = pixels(tmp_path / "a.png")
    assert (np.ptp(picture.astype(int), axis=2).max() > 20) == (channels == 3)  # colours only where there are some


def test_the_density_depends_on_schedules_and_spectrum(data, schedules, tmp_path):
    figures.draw_density(schedules, data.model.spectrum, tmp_path / "a.png")
    other = measure_data(smooth_images(20, 1, 32, seed=0), None)
    figures.draw_density(schedules, other.model.spectrum, tmp_path / "b.png")
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_the_plane_is_drawn_without_a_family(data, schedules, tmp_path):
    """Of a few tiny images every member can be nearly idle, which must not end an analysis at its last figures."""
    spectrum = merged(data.model.spectrum, 0.1)
    points = {m.name: (point_of(spectrum, m.log_snr, "ddim", 50), m.leaks, False) for m in schedules}
    figures.draw_plane(points, {}, [], {"pixels": [], "octaves": []}, "ddim", 50, tmp_path / "plane.png")
    assert pixels(tmp_path / "plane.png").shape == (990, 1500, 3)


def test_the_plane_names_its_points_without_covering_names(data, schedules, tmp_path, monkeypatch):
    spectrum = merged(data.model.spectrum, 0.1)
    points = {m.name: (point_of(spectrum, m.log_snr, "ddim", 50), m.leaks, False) for m in schedules}
    line = [point_of(spectrum, np.linspace(12, last, 1000), "ddim", 50) for last in (-12, -11, -10)]
    drawn = []
    save = figures.Figure.savefig
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path: (drawn.append(figure), save(figure, path)))
    family = dict(zip((0.0, 1.0, 2.0), line))
    figures.draw_plane(points, family, line, {"pixels": line, "octaves": line}, "ddim", 50, tmp_path / "plane.png")
    assert pixels(tmp_path / "plane.png").shape == (990, 1500, 3)
    for axis in drawn[0].axes:
        assert axis.get_yscale() == "log"
        texts = {text.get_text(): text.get_window_extent() for text in axis.texts}
        assert set(texts) == {*points, "κ=2"}
        boxes = list(texts.values())
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_styles_are_kept_for_landmarks_and_never_shared():
    names = ["a", "linear", "b", "cosine", *"cdefgh"]
    styles = figures.choose_styles(names)
    assert styles["linear"] == figures.STYLES["linear"] and styles["cosine"] == figures.STYLES["cosine"]
    assert len(styles) == len(figures.STYLES) == len(set(styles.values()))
    assert list(styles) == ["a", "linear", "b", "cosine", "c", "d", "e"]


def test_at_most_eight_panels(schedules):
    assert len(figures.choose_landmarks(schedules)) == 8
    assert figures.choose_landmarks(schedules[:3]) == schedules[:3]


def test_zero_terminal_snr_can_be_drawn(data, tmp_path):
    measures = measured(["linear, zero SNR", "cosine"], data)
    assert measures[0].log_snr[-1] == log_snr_of(np.zeros(1))[0]
    for draw in (figures.draw_curves, figures.draw_structure):
        draw(measures, tmp_path / "zero.png")
        assert pixels(tmp_path / "zero.png").std() > 5
