"""The optimum against cases that are known, and against what random changes reach."""

import numpy as np
import pytest

from cardiff.analysis.errors import SOLVERS, sampling_error
from cardiff.analysis.measures import MAX_LEAK
from cardiff.analysis.optimum import LOG_SNR_MAX, MIN_BETA, Optimum, Point, knots_of, point_of
from cardiff.diffusion.levels import log_snr_of, visited_levels
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.scheduling_spectral import KERNELS, SpectralScheduler, optimal_density
from cardiff.schedulers.spectrum import Spectrum, spectrum_from_octaves

SPECTRUM = spectrum_from_octaves([[40.0], [8.0], [1.5], [0.2], [0.03]], 16, mean_square=0.1)
WHITE = Spectrum(np.array([0.3]), np.array([256.0]), np.array([0]), np.array([0.0]))


def spectral(**arguments):
    return log_snr_of(SpectralScheduler.alphas_bar(1000, [[40.0], [8.0], [1.5], [0.2], [0.03]], 16, 0.1, **arguments))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [10, 50, 250])
def test_gradients_are_of_the_same_error(solver, steps):
    """The differentiable copy of the formulas gives the same numbers."""
    import torch

    table = spectral()
    optimum = Optimum(SPECTRUM, solver, steps)
    structure, pixels, octaves = optimum._point(torch.from_numpy(table[optimum.vertices]))
    between = (optimum.table_of @ torch.from_numpy(table[optimum.vertices])).numpy()  # straight lines between them
    expected = sampling_error(SPECTRUM, visited_levels(between, steps), solver)
    assert pixels.item() == pytest.approx(expected.pixels, rel=1e-9)
    assert octaves.item() == pytest.approx(expected.octaves, rel=1e-9)
    assert structure.item() == pytest.approx(SPECTRUM.structure(between).mean(), rel=1e-9)


def test_white_data_want_the_cosine_schedule_shifted_to_their_power():
    """DDIM turns each mode from noise to image; equal turns are best, and those are a cosine of the step."""
    levels = np.linspace(-16, 18, 4000)
    density = optimal_density(WHITE, levels, 0.0, 0.5, ("ddim",))
    expected = 1 / (2 * np.pi * np.cosh((levels + np.log(0.3)) / 2))
    np.testing.assert_allclose(density, expected, rtol=2e-3)

    steps = 8
    best = Optimum(WHITE, "ddim", steps).best(0.0, 0.5, log_snr_of(SCHEDULES["cosine"].alphas_bar(1000)))
    angles = np.arctan(np.sqrt(0.3 * np.exp(visited_levels(best, steps))))
    turns = np.diff(angles[::-1], append=np.pi / 2)
    np.testing.assert_allclose(turns, turns.mean(), rtol=0.03)


@pytest.mark.parametrize("solvers", [("ddpm",), ("ddim",), SOLVERS])
@pytest.mark.parametrize("kappa", [0.0, 4.0])
def test_no_change_of_the_density_is_better(solvers, kappa):
    """First-order objective of the density, with bumps of either sign at ten places."""
    levels = np.linspace(-12, 12.2, 2000)
    density = optimal_density(SPECTRUM, levels, kappa, 0.7, solvers, iterations=200)
    step, structure = levels[1] - levels[0], SPECTRUM.structure(levels)

    def objective(p):
        p = p / (p.sum() * step)
        value = -kappa * step * p @ structure
        for solver in solvers:
            error = step * (1 / p) @ KERNELS[solver](SPECTRUM.gain(levels))
            for share, weights in ((0.7, SPECTRUM.pixel_weights), (0.3, SPECTRUM.octave_weights)):
                value += 2 * share * np.log(weights @ error**2) / len(solvers)
        return value

    best = objective(density)
    for place in np.linspace(-11, 11, 10):
        bump = np.exp(-((levels - place) ** 2))
        for sign in (-1, 1):
            assert objective(density * (1 + 0.05 * sign * bump)) > best


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_family_follows_the_front(solver):
    """Within 5% at every number of steps, by the numerical optimum over all steps."""
    for steps in (10, 50, 250):
        optimum = Optimum(SPECTRUM, solver, steps)
        for kappa in (0.0, 3.0):
            # Few DDIM steps are best with a first one that is not from quite pure noise.
            leak = {10: 8e-4, 50: 1e-5, 250: 1e-6}[steps]
            table = spectral(kappa=kappa, solver=solver, max_leak=leak)
            distance, shown = optimum.distance(point_of(SPECTRUM, table, solver, steps), table)
            assert -0.01 < distance < np.log(1.05)
            reached, target = (point_of(SPECTRUM, t, solver, steps) for t in (shown, table))
            assert reached.structure > target.structure - 2e-4
            assert SPECTRUM.leak(shown[-1]) <= MAX_LEAK * 1.001 and shown[0] <= LOG_SNR_MAX + 1e-6
            assert (np.diff(shown) < 0).all()


def test_a_bad_schedule_is_far_from_the_front():
    linear = log_snr_of(SCHEDULES["linear"].alphas_bar(1000))
    target = point_of(SPECTRUM, linear, "ddpm", 50)
    distance, shown = Optimum(SPECTRUM, "ddpm", 50).distance(target, spectral())
    reached = point_of(SPECTRUM, shown, "ddpm", 50)
    assert distance > np.log(1.5)
    assert np.exp(distance) == pytest.approx(
        min(target.pixels / reached.pixels, target.octaves / reached.octaves), rel=1e-9
    )
    # Asked for both errors to be halved once more, nothing is found.
    beyond = Point(reached.structure, reached.pixels / 2, reached.octaves / 2)
    assert Optimum(SPECTRUM, "ddpm", 50).distance(beyond, shown)[0] < np.log(0.6)


def test_weights_choose_what_is_optimised():
    optimum = Optimum(SPECTRUM, "ddpm", 50)
    pixels, octaves, structured = (
        point_of(SPECTRUM, optimum.best(kappa, weight, spectral()), "ddpm", 50)
        for kappa, weight in ((0, 1.0), (0, 0.0), (6, 0.5))
    )
    assert pixels.pixels < octaves.pixels and octaves.octaves < pixels.octaves
    assert structured.structure > max(pixels.structure, octaves.structure) + 0.02


def test_few_knots_carry_the_optimum():
    table = Optimum(SPECTRUM, "ddpm", 10).best(0.0, 0.5, spectral())
    section = knots_of(table)
    assert section.pop("name") == "knots" and len(section["log_snr"]) == 17
    carried = log_snr_of(SCHEDULES["knots"].alphas_bar(1000, **section))
    reached, target = (point_of(SPECTRUM, t, "ddpm", 10) for t in (carried, table))
    assert reached.pixels == pytest.approx(target.pixels, rel=0.03)
    assert reached.octaves == pytest.approx(target.octaves, rel=0.03)
    assert reached.structure == pytest.approx(target.structure, abs=5e-3)


def test_structure_is_not_bought_by_idling():
    with pytest.raises(ValueError, match="kappa=40.*lower kappa"):
        spectral(kappa=40.0)


@pytest.mark.parametrize("arguments", [{"kappa": -1.0}, {"pixel_weight": 1.5}, {"max_leak": 0.0}])
def test_refused_parameters(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        spectral(**arguments)


def test_limits_have_the_gradient_of_their_values_and_keep_every_beta():
    optimum = Optimum(SPECTRUM, "ddpm", 10)
    gaps = optimum._gaps(spectral())
    _, jacobian = optimum._limits(gaps)
    shifts = 1e-6 * np.eye(len(gaps))
    differences = [(optimum._limits(gaps + e)[0] - optimum._limits(gaps - e)[0]) / 2e-6 for e in shifts]
    np.testing.assert_allclose(jacobian, np.stack(differences, axis=1), rtol=1e-5, atol=1e-6)
    # Much structure is bought near the clean image, in steps as short as float32 can hold and no shorter.
    _, table = optimum.distance(Point(0.7, 0.2, 0.2), spectral(kappa=4.0))
    betas = -np.expm1(np.diff(table)) / (1 + np.exp(table[1:]))  # 1 − ᾱ_s/ᾱ_p to first order in 1 − ᾱ
    assert table[0] == pytest.approx(LOG_SNR_MAX, abs=1e-3)
    assert betas[table[1:] > 8].min() > 0.9 * MIN_BETA


def test_each_solver_has_its_own_schedule_and_both_have_one_between():
    """Of the three, each is best for what it is made for: the mean of both errors' logarithms, over its solvers."""
    weight = {"ddpm": [1, 0], "ddim": [0, 1], "both": [0.5, 0.5]}
    errors = {
        made_for: [
            np.log([point.pixels, point.octaves]).mean()
            for point in (point_of(SPECTRUM, spectral(solver=made_for), solver, 250) for solver in ("ddpm", "ddim"))
        ]
        for made_for in weight
    }
    for wanted, shares in weight.items():
        by_schedule = {made_for: np.dot(shares, found) for made_for, found in errors.items()}
        assert min(by_schedule, key=by_schedule.get) == wanted
    np.testing.assert_array_equal(spectral(), spectral(solver="both"))


def test_the_largest_log_snr_is_that_of_eight_bits():
    """Rounding to steps of 2/255 has the variance of a step's square over 12."""
    assert pytest.approx(-np.log((2 / 255) ** 2 / 12), abs=0.05) == LOG_SNR_MAX


def test_a_search_that_finds_no_such_structure_shows_nothing():
    found, _ = Optimum(SPECTRUM, "ddim", 10).distance(Point(0.995, 0.1, 0.1), spectral())
    assert found == -np.inf
