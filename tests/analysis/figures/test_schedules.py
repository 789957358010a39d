"""The figures are written, of the size promised, and show the data and schedules they are given."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from cardiff.analysis.figures import schedules as figures
from cardiff.analysis.figures.style import DPI, WIDTH
from cardiff.analysis.measures import measure_data
from cardiff.diffusion.levels import log_snr_of
from tests.analysis.figures.conftest import HOSTILE, measured, pixels, smooth_images


@pytest.mark.parametrize(
    ("draw", "height"), [("curves", 4.2), ("structure", 6.0), ("octaves", 5.8), ("information", 6.6)]
)
def test_a_figure_of_schedules_has_its_size_and_shows_them(draw, height, schedules, tmp_path):
    function = getattr(figures, f"draw_{draw}")
    function(schedules, tmp_path / "all.png")
    function(schedules[1:], tmp_path / "fewer.png")
    picture = pixels(tmp_path / "all.png")
    assert picture.shape == (round(height * DPI), WIDTH * DPI, 3)
    assert 5 < picture.std() and not np.array_equal(picture, pixels(tmp_path / "fewer.png"))
    edge = np.concatenate([picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()])
    assert edge.min() == 255  # nothing is cut off at the border


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


def test_names_of_rows_are_no_mathematics(data, schedules, tmp_path):
    named = [replace(m, name=name) for m, name in zip(schedules, HOSTILE)]
    figures.draw_noising_strip(named, data.images, 0, tmp_path / "strip.png")
    figures.draw_density(named, data.model.spectrum, tmp_path / "density.png")
    assert all(pixels(tmp_path / f"{name}.png").std() > 5 for name in ("strip", "density"))


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


def test_zero_terminal_snr_can_be_drawn(data, tmp_path):
    measures = measured(["linear, zero SNR", "cosine"], data)
    assert measures[0].log_snr[-1] == log_snr_of(np.zeros(1))[0]
    for draw in (figures.draw_curves, figures.draw_structure):
        draw(measures, tmp_path / "zero.png")
        assert pixels(tmp_path / "zero.png").std() > 5
