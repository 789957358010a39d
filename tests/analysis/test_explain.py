"""The words must follow from the measures: other measures, other sentences."""

from dataclasses import replace

import numpy as np
import pytest

from cardiff.analysis.catalogue import with_spectrum
from cardiff.analysis.errors import SOLVERS, sampling_error
from cardiff.analysis.explain import (
    CLEAN,
    COARSE,
    FINE,
    MIDDLE,
    NOISE,
    error_by_step,
    explain,
    octave_name,
    zones,
)
from cardiff.analysis.measures import measure_data, measure_schedule, merged
from cardiff.analysis.spectra import octave_arguments
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.diffusion.levels import visited_levels
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def digits():
    config = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
    store = open_store(config, conditional=True)
    return measure_data(np.asarray(store.images[:300]), store.labels[:300])


def of(section: dict, data, name: str = "it"):
    section = with_spectrum(section, octave_arguments(data.model))
    return measure_schedule(name, alphas_cumprod_of(section), data)


def straight(first: float, last: float, data, timesteps: int = 1000):
    """A schedule whose log-SNR falls evenly."""
    return measure_schedule("it", 1 / (1 + np.exp(-np.linspace(first, last, timesteps))), data)


def words(measures, data, **changes) -> str:
    settings = {"solver": "ddpm", "steps": 50, "distance": 0.3, "others": [], "ours": False}
    return explain(measures, data, **{**settings, **changes})


def test_linear_idles_in_noise_and_spectral_does_not(digits):
    linear, spectral = of({"name": "linear"}, digits), of({"name": "spectral"}, digits)
    assert f"in the last {linear.idle_noise:.0%} of the timesteps no octave is readable" in words(linear, digits)
    assert "no octave is readable" not in words(spectral, digits)


def test_idling_near_the_clean_image_is_said(digits):
    assert "It idles near the clean image" in words(straight(25, -12, digits), digits)
    assert "It idles near the clean image" not in words(straight(9, -12, digits), digits)


def test_a_leak_is_said_with_its_source(digits):
    lognormal = of({"name": "edm_lognormal"}, digits)
    assert f"It leaks {lognormal.leak:.2g} nats at its last step, 100% of it from the mean image" in words(
        lognormal, digits
    )
    assert "within the 0.001 allowed" in words(of({"name": "cosine"}, digits), digits)
    # With every image and its negative the mean image is grey, and only the variance is left to leak.
    both = measure_data(np.concatenate([digits.images, 255 - digits.images]), None)
    assert "100% of it from the variance" in words(of({"name": "edm_lognormal"}, both), both)


def test_a_low_first_log_snr_makes_the_last_step_pay(digits):
    low, high = straight(2, -12, digits), straight(12, -12, digits)
    assert "The largest part arises in the last step" in words(low, digits)
    assert "last step, from log-SNR 1.7 to the clean image" in words(low, digits)
    assert "last step, from" not in words(high, digits)


def test_long_steps_out_of_noise_pay_at_the_noisy_end(digits):
    t = np.linspace(0, 1, 1000)
    jump = measure_schedule("it", 1 / (1 + np.exp(-np.where(t < 0.999, 12 - 10 * t, -12 - t))), digits)
    assert "The largest part arises at the noisy end" in words(jump, digits)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["linear", "cosine", "Laplace"])
def test_the_error_by_step_adds_up_to_the_error(digits, solver, name):
    spectrum = merged(digits.model.spectrum)
    visited = visited_levels(of(PUBLISHED[name], digits).log_snr, 50)
    split = error_by_step(spectrum, visited, solver)
    assert split.shape == (51, len(spectrum.variances)) and split.min() >= 0
    error = sampling_error(spectrum, visited, solver)
    np.testing.assert_allclose(split.sum(0) @ spectrum.pixel_weights, error.pixels, rtol=1e-9)
    np.testing.assert_allclose(split.sum(0) @ spectrum.octave_weights, error.octaves, rtol=1e-9)


def test_zones_are_in_order_and_agree_with_the_idle_shares(digits):
    measures = straight(20, -12, digits)
    zone = zones(measures.octaves)
    assert np.all(np.diff(zone) >= 0)
    assert (zone == CLEAN).mean() == measures.idle_clean > 0
    assert (zone == NOISE).mean() == measures.idle_noise > 0


def test_octaves_have_names_and_half_lives(digits):
    assert [octave_name(k) for k in (0, 1, 4)] == [
        "the mean brightness",
        "1 to 2 cycles an image",
        "8 to 16 cycles an image",
    ]
    cosine = of({"name": "cosine"}, digits)
    text = words(cosine, digits)
    assert (
        f"The finest octave (8 to 16 cycles an image) is half gone at t = {cosine.octave_half_lives[-1]:.3f}" in text
    )
    for k, life in enumerate(cosine.octave_half_lives[:-1]):
        assert f"{octave_name(k)} at t = {life:.3f}" in text


def test_class_and_identity_follow_the_data(digits):
    cosine = of({"name": "cosine"}, digits)
    assert "Half of the information on the class is lost at t = " in words(cosine, digits)
    bare = replace(digits, posterior=replace(digits.posterior, class_information=None))
    text = words(replace(cosine, class_information=None), bare)
    assert "on the class" not in text and "For most noisy images the original can be identified until t = " in text


def test_the_comparison_names_what_beats_it(digits):
    linear, cosine = of({"name": "linear"}, digits, "linear"), of({"name": "cosine"}, digits, "cosine")
    good = replace(straight(10, -11, digits), name="good")
    cosine = replace(cosine, name="cosine, mine")
    assert "None of our schedules beats it" in words(good, digits, others=[cosine])
    exponential = of({"name": "exponential"}, digits, "exponential")
    assert "Our good beats it in all three" in words(exponential, digits, others=[good])
    text = words(good, digits, others=[exponential, cosine], ours=True)
    assert "it beats 1 of the 2 schedules of others that do not leak: *exponential*" in text
    assert linear.leaks and "ranked after" in words(linear, digits, others=[good])


@pytest.mark.parametrize(
    ("distance", "sentence"),
    [
        (0.001, "It is on the front"),
        (np.log(1.42), "Both its errors are 42% or more above"),
        (np.log(26), "Both its errors are 26 or more times"),
    ],
)
def test_the_distance_is_said(digits, distance, sentence):
    assert sentence in words(of({"name": "cosine"}, digits), digits, distance=distance)


def test_names_in_words_are_no_markup(digits):
    best, worse = replace(straight(10, -11, digits), name="my_|best"), of({"name": "exponential"}, digits)
    assert "Our my\\_&#124;best beats it" in words(worse, digits, others=[best])


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_the_mean_misses_belongs_to_the_start(digits, solver):
    """Only there does the sampler not know the mean image; the steps are the same with any."""
    spectrum = merged(digits.model.spectrum)
    visited = visited_levels(of(PUBLISHED["linear"], digits).log_snr, 50)
    split = error_by_step(spectrum, visited, solver)
    without = error_by_step(replace(spectrum, mean_powers=np.zeros_like(spectrum.mean_powers)), visited, solver)
    np.testing.assert_array_equal(split[:-1], without[:-1])
    assert (split[-1] > without[-1]).any() and (split[-1] >= without[-1]).all()


def test_zones_by_hand():
    shares = [[0.99, 0.97], [0.99, 0.5], [0.9, 0.3], [0.5, 0.5], [0.4, 0.2], [0.06, 0.01], [0.04, 0.01]]
    assert zones(np.array(shares)).tolist() == [CLEAN, FINE, MIDDLE, MIDDLE, COARSE, COARSE, NOISE]
