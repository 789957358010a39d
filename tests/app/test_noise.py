"""What the tab Noise computes."""

import numpy as np
import pytest
from PIL import Image

from cardiff.analysis.errors import sampling_error
from cardiff.analysis.measures import merged
from cardiff.analysis.spectra import to_float
from cardiff.app.noise import (
    KNOTS,
    OWN,
    SCHEDULES,
    STEPS,
    draw_curves,
    index_of,
    level_of,
    measure,
    noised,
    octave_shares,
    picture_set,
    save_strip,
    start_knots,
    yaml_of_knots,
)
from cardiff.config.schedule import make_schedule
from cardiff.config.yaml_file import read_yaml
from cardiff.diffusion.levels import visited_levels
from cardiff.errors import UserError

DIGITS = "digits, 16×16"


@pytest.fixture(scope="module")
def digits():
    return picture_set(DIGITS)


def test_a_noised_picture_is_that_of_the_formula(digits):
    """x_t = a·x₀ + σ·ε, shown from −1 to 1, with the same noise for every schedule."""
    picture, level = digits.images[5], 1.3
    shown = noised(picture, level, digits.model, seed=4)[0]
    alpha_bar = 1 / (1 + np.exp(-level))
    noise = np.random.default_rng(4).standard_normal(picture.shape)
    expected = np.sqrt(alpha_bar) * to_float(picture) + np.sqrt(1 - alpha_bar) * noise
    expected = np.round((np.clip(expected, -1, 1) + 1) * 127.5).transpose(1, 2, 0)
    assert np.array_equal(shown, expected)


def test_the_estimate_is_the_picture_without_noise_and_the_mean_in_noise(digits):
    picture = digits.images[5]
    assert np.array_equal(noised(picture, np.inf, digits.model, 0), np.stack([picture.transpose(1, 2, 0)] * 2))
    clean = noised(picture, 12.0, digits.model, 0)[1].astype(int)
    assert np.abs(clean - picture.transpose(1, 2, 0)).max() <= 2
    lost = noised(picture, -20.0, digits.model, 0)[1].astype(int)
    mean = np.round((digits.model.mean.transpose(1, 2, 0) + 1) * 127.5)
    assert np.abs(lost - mean).max() <= 2
    # In between it is made of the noisy picture, and nearer to the clean one than that is.
    seen, others = (noised(picture, -1.0, digits.model, seed)[1].astype(int) for seed in (0, 1))
    assert np.abs(seen - others).max() > 20
    noisy, estimate = (to_float(x.transpose(2, 0, 1)) for x in noised(picture, 0.0, digits.model, 0))
    assert np.square(estimate - to_float(picture)).mean() < 0.5 * np.square(noisy - to_float(picture)).mean()


@pytest.mark.parametrize(("t", "index"), [(0, None), (0.0004, 0), (0.001, 0), (0.5, 499), (1.0, 999), (1.2, 999)])
def test_a_time_is_that_of_its_timestep(t, index):
    """t = (i + 1)/T."""
    assert index_of(t, 1000) == index


def test_a_level_is_read_from_the_table(digits):
    table = digits.log_snr("cosine", [])
    assert level_of(table, 0.5) == table[499]
    assert level_of(table, 0) == np.inf


def test_octaves_are_read_one_by_one(digits):
    """Against a sum over the modes of each octave, one at a time, of the set's unmerged spectrum."""
    spectrum, level = digits.model.spectrum, 0.7
    shares = octave_shares(digits, level)
    for octave in range(int(spectrum.octaves.max()) + 1):
        signal = np.exp(level) * spectrum.variances[spectrum.octaves == octave]
        assert shares[octave] == pytest.approx((signal / (1 + signal)).mean(), abs=2e-3)
    assert octave_shares(digits, np.inf) == pytest.approx(1)


def test_measures_are_those_of_the_report(digits):
    table = digits.log_snr("linear", [])
    found = measure(digits, table)
    spectrum = merged(digits.model.spectrum)
    assert found["structure A"] == f"{spectrum.structure(table).mean():.3f}"
    assert found["leak, nats"] == f"{spectrum.leak(table[-1]):.2g}, leaks"
    error = sampling_error(spectrum, visited_levels(table, STEPS), "ddpm")
    assert found[f"DDPM {STEPS}: error in pixels"] == f"{error.pixels:.3g}"
    assert found[f"DDPM {STEPS}: by octave"] == f"{error.octaves:.3g}"
    assert "leaks" not in measure(digits, digits.log_snr("cosine", []))["leak, nats"]


def test_the_yaml_trains_on_the_drawn_schedule(digits, tmp_path):
    knots = [9.0, 5.0, 2.0, 0.5, -1.0, -4.0, -11.0]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml_of_knots(knots))
    schedule = make_schedule(read_yaml(file)["scheduler"])
    alphas_bar = schedule.alphas_cumprod.numpy()
    trained = np.log(alphas_bar / (1 - alphas_bar))
    assert trained == pytest.approx(digits.log_snr(OWN, knots), abs=2e-2)
    assert trained[-1] == pytest.approx(-11, abs=1e-2)


@pytest.mark.parametrize("knots", [[], [1.0] * KNOTS, [3, 2, 1, 0, -1, -2, np.nan], list(range(KNOTS)), [1.0, 0.0]])
def test_knots_that_do_not_fall_are_refused(knots, digits):
    with pytest.raises(UserError, match="Each knot must lie below the one to its left"):
        digits.log_snr(OWN, knots)


def test_the_first_knots_are_a_schedule(digits):
    assert np.all(np.diff(digits.log_snr(OWN, start_knots())) < 0)


def test_an_uploaded_picture_gets_the_size_of_the_set(digits, tmp_path):
    Image.new("RGBA", (70, 50), (255, 0, 0, 255)).save(tmp_path / "mine.png")
    assert digits.picture(0, str(tmp_path / "mine.png")).shape == (1, 16, 16)
    (tmp_path / "no.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="the uploaded picture"):
        digits.picture(0, str(tmp_path / "no.png"))
    assert np.array_equal(digits.picture(len(digits.images) + 2, None), digits.images[2])


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_every_schedule_is_drawn(t, digits, tmp_path):
    tables = {name: digits.log_snr(name, []) for name in SCHEDULES}
    save_strip(digits, digits.picture(3, None), tables, t, 0, tmp_path / "strip.png")
    four = dict(list(tables.items())[:4])
    assert draw_curves(digits, four, t).size[0] > 500
    assert Image.open(tmp_path / "strip.png").size[1] > 100
