"""Every schedule against a closed form written another way, its known points, and what is refused."""

import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats
from scipy.interpolate import PchipInterpolator
from scipy.special import expit, logit

from cardiff.schedulers import SCHEDULES, CosineScheduler, LinearScheduler, SigmoidScheduler
from cardiff.schedulers.scheduling_base import from_log_snr, rescale_zero_snr, scale_input
from cardiff.schedulers.scheduling_knots import monotone_cubic
from cardiff.schedulers.spectrum import spectrum_from_octaves
from tests.support.example_schedules import example

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def log_snr(alphas_cumprod):
    alphas_cumprod = np.asarray(alphas_cumprod, dtype=np.float64)
    return np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)


# The formulas, once more.


def linear_by_hand(T=1000, beta_start=1e-4, beta_end=0.02):
    product, values = 1.0, []
    for i in range(T):
        product *= 1 - (beta_start + (beta_end - beta_start) * i / (T - 1))
        values.append(product)
    return np.array(values)


def quadratic_by_hand(T=1000, beta_start=1e-4, beta_end=0.02):
    """β expanded, and the product as a sum of logarithms."""
    u = np.arange(T) / (T - 1)
    betas = beta_start * (1 - u) ** 2 + beta_end * u**2 + 2 * np.sqrt(beta_start * beta_end) * u * (1 - u)
    return np.exp(np.cumsum(np.log1p(-betas)))


def constant_by_hand(T=1000, beta=0.01):
    return np.array([(1 - beta) ** (i + 1) for i in range(T)])


def exponential_by_hand(T=1000, rate=12.0):
    return np.array([math.exp(-rate / T) ** (i + 1) for i in range(T)])


def jsd_by_hand(T=1000):
    """β = 1/T, 1/(T − 1), …, ½, and the bound in place of the last."""
    product, values = 1.0, []
    for i in range(T - 1):
        product *= 1 - 1 / (T - i)
        values.append(product)
    return np.array([*values, 1e-9])


def cosine_by_hand(T=1000, s=0.008):
    """cos² as (1 + cos 2x)/2, and β ≤ .999 as a floor on each quotient."""
    f = [(1 + math.cos((i / T + s) / (1 + s) * math.pi)) / 2 for i in range(T + 1)]
    product, values = 1.0, []
    for i in range(T):
        product *= max(f[i + 1] / f[i], 0.001)
        values.append(product)
    return np.array(values)


def generalised_cosine_by_hand(T=1000, start=0.0, end=1.0, tau=1.0):
    """cos² as (1 + cos 2x)/2, to the power of τ."""
    at = [((1 + math.cos((start + (end - start) * i / T) * math.pi)) / 2) ** tau for i in range(T + 1)]
    return np.array([1e-9 + (1 - 1e-9) * (a - at[-1]) / (at[0] - at[-1]) for a in at[1:]])


def sigmoid_by_hand(T=1000, start=-3.0, end=3.0, tau=0.5):
    """The logistic function as (1 + tanh(x/2))/2, whose constants cancel."""
    at = [math.tanh((start + (end - start) * i / T) / (2 * tau)) for i in range(T + 1)]
    return np.array([max((at[-1] - a) / (at[-1] - at[0]), 1e-9) for a in at[1:]])


def geodiff_sigmoid_by_hand(T=1000, beta_start=1e-4, beta_end=0.02):
    x = np.array([-6 + 12 * i / (T - 1) for i in range(T)])
    betas = (beta_start + beta_end) / 2 + (beta_end - beta_start) / 2 * np.tanh(x / 2)
    return np.exp(np.cumsum(np.log1p(-betas)))


def laplace_by_hand(T=1000, mu=0.0, b=0.5):
    """Quantiles of the distribution, from above."""
    return expit(stats.laplace(mu, b).isf((np.arange(T) + 0.5) / T))


def cauchy_by_hand(T=1000, mu=0.0, gamma=1.0, log_snr_max=12.0, log_snr_min=-15.0):
    above = stats.cauchy(mu, gamma).sf([log_snr_max, log_snr_min])
    t = np.arange(1, T + 1) / T
    return expit(stats.cauchy(mu, gamma).isf(above[0] * (1 - t) + above[1] * t))


def cosine_log_snr_by_hand(T=1000, lambda_min=-15.0, lambda_max=15.0, shift=0.0, shift_clean=None):
    """SNR = cot² of an angle, times e to the shift."""
    first, last = math.atan(math.exp(-lambda_max / 2)), math.atan(math.exp(-lambda_min / 2))
    values = []
    for i in range(1, T + 1):
        angle = first * (1 - i / T) + last * i / T
        factor = math.exp(shift if shift_clean is None else shift * i / T + shift_clean * (1 - i / T))
        signal, noise = factor * math.cos(angle) ** 2, math.sin(angle) ** 2
        values.append(signal / (signal + noise))
    return np.array(values)


def linear_log_snr_by_hand(T=1000, log_snr_max=10.0, log_snr_min=-10.0):
    """The logistic function as (1 + tanh(x/2))/2."""
    return (1 + np.tanh(np.linspace(log_snr_max, log_snr_min, T + 1)[1:] / 2)) / 2


def edm_by_hand(T=1000, rho=7.0, sigma_min=0.002, sigma_max=80.0):
    sigmas = np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), T + 1)[1:] ** rho
    return 1 / (1 + sigmas**2)


def edm_lognormal_by_hand(T=1000, p_mean=-1.2, p_std=1.2):
    sigmas = stats.lognorm(s=p_std, scale=math.exp(p_mean)).ppf((np.arange(T) + 0.5) / T)
    return 1 / (1 + sigmas**2)


def knots_by_hand(T=1000, log_snr=(), times=None):
    times = np.linspace(0, 1, len(log_snr)) if times is None else times
    return expit(PchipInterpolator(times, log_snr)(np.arange(1, T + 1) / T))


FORMULAS = [
    ("linear", linear_by_hand, {"beta_start": 2e-4, "beta_end": 0.05}),
    ("quadratic", quadratic_by_hand, {"beta_start": 2e-4, "beta_end": 0.05}),
    ("constant", constant_by_hand, {"beta": 0.03}),
    ("exponential", exponential_by_hand, {"rate": 9.0}),
    ("jsd", jsd_by_hand, {}),
    ("cosine", cosine_by_hand, {"s": 0.02}),
    ("generalised_cosine", generalised_cosine_by_hand, {"start": 0.2, "end": 0.9, "tau": 2.0}),
    ("sigmoid", sigmoid_by_hand, {"tau": 0.7, "start": -2.0, "end": 4.0}),
    ("geodiff_sigmoid", geodiff_sigmoid_by_hand, {"beta_start": 2e-4, "beta_end": 0.05}),
    ("laplace", laplace_by_hand, {"mu": 1.0, "b": 0.8}),
    ("cauchy", cauchy_by_hand, {"mu": -1.0, "gamma": 2.0, "log_snr_max": 9.0, "log_snr_min": -12.0}),
    ("cosine_log_snr", cosine_log_snr_by_hand, {"shift": -2 * math.log(2), "lambda_max": 14.0}),
    ("cosine_log_snr", cosine_log_snr_by_hand, {"shift": -3.0, "shift_clean": 0.5, "lambda_min": -12.0}),
    ("linear_log_snr", linear_log_snr_by_hand, {"log_snr_max": 8.0, "log_snr_min": -9.0}),
    ("edm", edm_by_hand, {"rho": 5.0, "sigma_min": 0.01, "sigma_max": 50.0}),
    ("edm_lognormal", edm_lognormal_by_hand, {"p_mean": -0.5, "p_std": 1.5}),
    ("knots", knots_by_hand, {"log_snr": [9.0, 3.0, 2.9, -8.0]}),
    ("knots", knots_by_hand, {"log_snr": [9.0, -8.0]}),
    ("knots", knots_by_hand, {"log_snr": [9.0, 1.0, -1.0, -8.0], "times": [0.0, 0.5, 0.6, 1.0]}),
]


@pytest.mark.parametrize(("name", "by_hand", "others"), FORMULAS)
def test_formulas_in_float64(name, by_hand, others):
    pairs = [(SCHEDULES[name].alphas_bar(300, **others), by_hand(300, **others))]
    if name != "knots":  # which has no defaults
        pairs.append((SCHEDULES[name].alphas_bar(1000), by_hand()))
    for formula, expected in pairs:
        assert formula.dtype == np.float64
        # Some cancel digits near t = 1, where ᾱ is 1e-9.
        np.testing.assert_allclose(formula, expected, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(1 - formula, 1 - expected, rtol=1e-9)


def test_a_table_is_itself():
    table = [0.9, 0.5, 0.1]
    scheduler = SCHEDULES["table"](num_train_timesteps=3, alphas_cumprod=table)
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.tensor(table), rtol=1e-6, atol=0)


def test_monotone_cubic_is_pchip():
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 9, 30):
        x, y = np.cumsum(rng.uniform(0.01, 1, count)), -np.cumsum(rng.exponential(1, count) ** 3)
        at = np.concatenate([x, rng.uniform(x[0], x[-1], 500)])
        expected = PchipInterpolator(x, y)(at)
        np.testing.assert_allclose(monotone_cubic(x, y, at), expected, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(monotone_cubic(x, -y, at), -expected, rtol=1e-11, atol=1e-11)


def test_log_snr_does_not_overflow():
    values = np.array([-800.0, -700, -30, 0, 30, 800])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(from_log_snr(values), expit(values), rtol=1e-12)


# Known points


@pytest.mark.parametrize(
    ("name", "arguments", "crossing", "last"),
    [
        ("linear", {}, 259, -10.118),
        ("quadratic", {}, 418, -7.22),
        ("constant", {}, 68, -10.05),
        ("exponential", {}, 57, -12.0),
        ("jsd", {}, 500, math.log(1e-9)),
        ("cosine", {}, 496, -19.836),
        ("generalised_cosine", {"tau": 0.5}, 666, math.log(1e-9)),
        ("generalised_cosine", {"tau": 2.0}, 364, math.log(1e-9)),
        ("sigmoid", {}, 500, math.log(1e-9)),
        ("geodiff_sigmoid", {}, 439, -10.13),
        ("laplace", {}, 500, -3.454),
        ("cauchy", {}, 497, -15.0),
        ("cauchy", {"log_snr_max": 15.0}, 500, -15.0),
        ("cosine_log_snr", {}, 500, -15.0),
        ("cosine_log_snr", {"shift": 2 * math.log(2)}, 704, -13.614),
        ("linear_log_snr", {}, 500, -10.0),
        ("edm", {}, 403, -2 * math.log(80)),
        ("edm_lognormal", {}, 841, -5.497),
    ],
)
def test_known_points(name, arguments, crossing, last):
    """The first index with SNR < 1, and the last log-SNR."""
    values = log_snr(SCHEDULES[name].alphas_bar(1000, **arguments))
    assert int(np.argmax(values < -1e-12)) == crossing
    assert values[-1] == pytest.approx(last, abs=5e-3)


def test_cosine_is_diffusers_cosine():
    stock = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(CosineScheduler().betas, stock.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(CosineScheduler().alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "beta_schedule"), [("linear", "linear"), ("quadratic", "scaled_linear"), ("geodiff_sigmoid", "sigmoid")]
)
def test_betas_of_diffusers(name, beta_schedule):
    stock = DDPMScheduler(beta_schedule=beta_schedule)
    torch.testing.assert_close(SCHEDULES[name]().betas, stock.betas, rtol=5e-6, atol=0)


def test_laplace_is_not_diffusers_laplace():
    """Which takes √(SNR/(1 + SNR)) for ᾱ, so that three times the share of signal is left at the end."""
    stock, ours = DDPMScheduler(beta_schedule="laplace").alphas_cumprod, SCHEDULES["laplace"]().alphas_cumprod
    assert stock[:-1].sqrt()[500] > 0.83 and ours.sqrt()[499] == pytest.approx(0.5**0.5, abs=1e-3)


@pytest.mark.parametrize("tau", [0.3, 0.5, 1.0])
def test_sigmoid_is_antisymmetric_about_the_middle(tau):
    alphas_cumprod = SigmoidScheduler.alphas_bar(1000, tau=tau, start=-3.0, end=3.0)  # t = .001, …, 1
    np.testing.assert_allclose(alphas_cumprod[499], 0.5, rtol=1e-12)  # t = ½
    np.testing.assert_allclose(alphas_cumprod[:999] + alphas_cumprod[998::-1], 1, rtol=1e-12)
    assert alphas_cumprod[-1] == 1e-9


def test_sigmoid_of_large_tau_is_one_minus_t():
    expected = 1 - np.arange(1, 1000) / 1000
    np.testing.assert_allclose(
        SigmoidScheduler.alphas_bar(1000, tau=1e3, start=-3.0, end=3.0)[:-1], expected, atol=2e-6
    )


# What diffusers makes of them


@every_schedule
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("input_scale", [1.0, 0.6])
def test_what_the_scheduler_uses_is_the_formula(name, zero_snr, input_scale):
    """To the precision of float32, which in log-SNR is the worse the less noise there is."""
    options = {"rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction", "input_scale": input_scale}
    scheduler = example(name, **options)
    own = {key: scheduler.config[key] for key in inspect.signature(SCHEDULES[name].alphas_bar).parameters}
    expected = SCHEDULES[name].alphas_bar(**own)
    expected = scale_input(expected, input_scale)
    expected = rescale_zero_snr(expected) if zero_snr else expected
    alphas_cumprod = scheduler.alphas_cumprod
    assert len(alphas_cumprod) == 1000 and alphas_cumprod.dtype == torch.float32
    assert alphas_cumprod[0] < 1 and (alphas_cumprod.diff() < 0).all()
    assert alphas_cumprod[-1] == 0 if zero_snr else alphas_cumprod[-1] > 0
    torch.testing.assert_close(alphas_cumprod.double(), torch.from_numpy(expected), rtol=0, atol=3e-6)
    inner = slice(0, 999 if zero_snr else 1000)
    np.testing.assert_allclose(log_snr(alphas_cumprod[inner]), log_snr(expected[inner]), rtol=0, atol=0.05)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_powers_of_the_cosine(tau):
    """With a large power several last steps fall below the 1e-9 at which the paper clips; they must stay apart."""
    assert (SCHEDULES["generalised_cosine"](tau=tau).alphas_cumprod.diff() < 0).all()


@every_schedule
def test_incoming_betas_do_not_override_the_formula(name):
    expected = example(name).alphas_cumprod
    torch.testing.assert_close(example(name, trained_betas=[0.5] * 10).alphas_cumprod, expected, rtol=0, atol=0)


# Modifiers


@pytest.mark.parametrize("b", [0.3, 1.0, 2.0])
def test_input_scale_adds_to_log_snr(b):
    alphas_cumprod = SCHEDULES["linear"].alphas_bar(1000)
    np.testing.assert_allclose(
        log_snr(scale_input(alphas_cumprod, b)), log_snr(alphas_cumprod) + 2 * math.log(b), rtol=1e-9
    )
    used = SCHEDULES["linear"](input_scale=b).alphas_cumprod
    np.testing.assert_allclose(used, scale_input(alphas_cumprod, b), atol=1e-6)


def test_input_scale_is_the_process_of_the_scaled_image():
    """√ᾱ·b·x₀ + √(1 − ᾱ)·ε, divided by its standard deviation for x₀ of variance 1."""
    for signal, b in ((0.9, 0.3), (0.2, 0.7)):
        a, sigma, spread = b * signal**0.5, (1 - signal) ** 0.5, (b**2 * signal + 1 - signal) ** 0.5
        np.testing.assert_allclose(scale_input(np.array([signal]), b), (a / spread) ** 2, rtol=1e-12)
        np.testing.assert_allclose(1 - scale_input(np.array([signal]), b), (sigma / spread) ** 2, rtol=1e-12)


def test_zero_snr_is_diffusers_rescaling():
    stock = DDPMScheduler(rescale_betas_zero_snr=True)
    ours = LinearScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    torch.testing.assert_close(ours.alphas_cumprod, stock.alphas_cumprod, rtol=0, atol=3e-6)
    assert ours.alphas_cumprod[-1] == stock.alphas_cumprod[-1] == 0


def test_zero_snr_keeps_the_first_step_and_the_shape():
    """√ᾱ changes by an affine map."""
    before = np.sqrt(LinearScheduler.alphas_bar(1000))
    after = np.sqrt(rescale_zero_snr(before**2))
    assert after[-1] == 0 and after[0] == pytest.approx(before[0], rel=1e-12)
    np.testing.assert_allclose(np.diff(after) / np.diff(before), before[0] / (before[0] - before[-1]), rtol=1e-9)


# What is refused


@pytest.mark.parametrize(
    ("schedule", "arguments", "sentence"),
    [
        ("linear", {"beta_end": 1.0}, "LinearScheduler: alphas_cumprod must stay above 0, but is 0 at step"),
        ("linear", {"beta_end": 1.5}, "where a beta of 1 or more or too much noise has used it up"),
        ("linear", {"beta_start": 0.0}, "must fall strictly from below 1, but step 0 takes it from 1 to 1;"),
        ("linear", {"beta_start": -0.01}, "must fall strictly"),
        ("linear", {"beta_end": math.nan}, "LinearScheduler: beta_end=nan must be finite"),
        ("linear", {"input_scale": math.inf}, "LinearScheduler: input_scale=inf must be finite"),
        ("linear", {"input_scale": 0.0}, "LinearScheduler: input_scale=0.0 must be above 0"),
        ("linear", {"num_train_timesteps": 100_000}, "must fall strictly"),  # ᾱ underflows
        (
            "linear",
            {"num_train_timesteps": 9_000},
            "ends at .* which diffusers' float32 cannot hold: let the schedule",
        ),
        ("quadratic", {"beta_start": -1.0}, "QuadraticScheduler: beta_start=-1.0 and"),
        ("constant", {"beta": 1.0}, "is 0 at step 0, where a beta of 1"),
        ("exponential", {"rate": 0.0}, "must fall strictly"),
        ("exponential", {"rate": 100.0}, "which diffusers' float32 cannot hold"),
        ("cosine", {"s": math.nan}, "CosineScheduler: s=nan must be finite"),
        ("cosine", {"s": -0.5}, "must fall strictly"),
        ("generalised_cosine", {"tau": 0.0}, "GeneralisedCosineScheduler: tau=0.0 must be above 0"),
        ("generalised_cosine", {"end": 1.5}, "below end=1.5, which is at most 1"),
        ("sigmoid", {"tau": 0.0}, "SigmoidScheduler: tau=0.0 must be above 0"),
        ("sigmoid", {"tau": -1.0}, "must be above 0"),
        ("sigmoid", {"tau": math.nan}, "SigmoidScheduler: tau=nan must be finite"),
        ("sigmoid", {"start": 3.0}, "end=3.0 above start=3.0"),
        ("laplace", {"b": 0.0}, "LaplaceScheduler: b=0.0 must be above 0"),
        ("cauchy", {"gamma": 0.0}, "CauchyScheduler: gamma=0.0 must be above 0"),
        ("cauchy", {"log_snr_max": -20.0}, "log_snr_max=-20.0 above log_snr_min=-15.0"),
        ("cosine_log_snr", {"lambda_max": -16.0}, "lambda_max=-16.0 must be above lambda_min=-15.0"),
        ("cosine_log_snr", {"shift_clean": math.nan}, "shift_clean=nan must be finite"),
        ("linear_log_snr", {"log_snr_max": -10.0}, "must fall strictly"),
        ("edm", {"sigma_min": 0.0}, "sigma_min=0.0 above 0 and below sigma_max=80.0"),
        ("edm_lognormal", {"p_std": 0.0}, "must fall strictly"),
        ("edm_lognormal", {"p_std": -1.0}, "must fall strictly"),
        ("knots", {}, "KnotsScheduler: log_snr has no default: give it"),
        ("knots", {"log_snr": [1.0]}, "must hold two values or more"),
        ("knots", {"log_snr": [5.0, 5.0]}, "each below the one before"),
        ("knots", {"log_snr": [5.0, math.inf]}, "log_snr=.* must be finite"),
        ("knots", {"log_snr": [5.0, -5.0], "times": [0.0, 0.5]}, "must rise from 0 to 1"),
        ("knots", {"log_snr": [5.0, -5.0], "times": [0.1, 1.0]}, "must rise from 0 to 1"),
        ("knots", {"log_snr": [5.0, 0.0, -5.0], "times": [0.0, 1.0, 1.0]}, "must rise from 0 to 1"),
        ("knots", {"log_snr": [5.0, 0.0, -5.0], "times": [0.0, 1.0]}, "one for each of the 3 values"),
        ("table", {}, "TableScheduler: alphas_cumprod has no default: give it"),
        ("table", {"alphas_cumprod": [0.9, 0.5]}, r"has the shape \(2,\), but num_train_timesteps is 1000: give one"),
        ("table", {"alphas_cumprod": [0.9, 0.95], "num_train_timesteps": 2}, "step 1 takes it from 0.9 to 0.95"),
        (
            "table",
            {"alphas_cumprod": [0.9, -0.5], "num_train_timesteps": 2},
            "is -0.5 at step 1, where a beta of 1 or more",
        ),
        ("table", {"alphas_cumprod": [0.9, 0.0], "num_train_timesteps": 2}, "set rescale_betas_zero_snr if the last"),
        ("table", {"alphas_cumprod": [1.0, 0.5], "num_train_timesteps": 2}, "step 0 takes it from 1 to 1"),
    ],
)
def test_refused_parameters(schedule, arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        SCHEDULES[schedule](**arguments)
    assert str(error.value).count("\n") == 0


@every_schedule
def test_refused_for_every_schedule(name):
    for count in (0, -3):
        with pytest.raises(ValueError, match=f"num_train_timesteps is {count}, but must be 1 or more"):
            example(name, num_train_timesteps=count)
    with pytest.raises(ValueError, match="choose v_prediction or sample"):
        example(name, rescale_betas_zero_snr=True, prediction_type="epsilon")
    with pytest.raises(TypeError, match=f"{SCHEDULES[name].__name__} has no argument tua"):
        example(name, tua=0.5)


def test_a_table_may_end_in_pure_noise():
    options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 3}
    scheduler = SCHEDULES["table"](alphas_cumprod=[0.9, 0.5, 0.0], **options)
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.tensor([0.9, 0.5, 0.0]), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr needs num_train_timesteps of 2 or more"):
        SCHEDULES["table"](alphas_cumprod=[0.9], **{**options, "num_train_timesteps": 1})


@pytest.mark.parametrize(
    ("schedule", "arguments", "sentence"),
    [
        ("linear", {"beta_start": 1e-12}, "log-SNR is 27.63 at step 0, which becomes inf in diffusers' float32"),
        ("sigmoid", {"tau": 0.2}, "up to 14 is possible: let the schedule start with more noise"),
        ("linear_log_snr", {"log_snr_max": 17.0}, "log-SNR is 16.97 at step 0"),
        ("linear_log_snr", {"log_snr_max": 15.5}, "which becomes .* in diffusers' float32; up to 14 is possible"),
        # Steps of a five-thousandth of a nat.
        ("knots", {"log_snr": [11.0, 10.9, -10.0]}, "which rounds such short steps away: use longer steps there"),
    ],
)
def test_refused_when_float32_cannot_hold_it(schedule, arguments, sentence):
    """Diffusers keeps ᾱ in float32: one that rounds to 1 has an infinite SNR."""
    with pytest.raises(ValueError, match=sentence):
        SCHEDULES[schedule](**arguments)


@pytest.mark.parametrize("first", np.linspace(6, 14, 33))
def test_a_first_log_snr_up_to_14_is_never_refused(first):
    """For steps of an ordinary length."""
    SCHEDULES["knots"](log_snr=[first, -10.0], num_train_timesteps=50)
    scheduler = SCHEDULES["table"](alphas_cumprod=[expit(first), 0.5], num_train_timesteps=2)
    assert logit(scheduler.alphas_cumprod[0].item()) == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize("name", SCHEDULES)
def test_defaults(name):
    """Those of docs/reverse_process.md: the noise is predicted, steps trail, and the smaller variance is taken."""
    config = example(name).config
    assert config.prediction_type == "epsilon" and config.timestep_spacing == "trailing"
    assert config.variance_type == "fixed_small" and config.clip_sample and config.num_train_timesteps == 1000
    assert config.input_scale == 1.0 and not config.rescale_betas_zero_snr


@pytest.mark.parametrize("kappa", [0.0, 0.9])
def test_octave_steps_have_the_density_of_its_formula(kappa):
    """p ∝ √(c/(1 − κS)), integrated apart, between the levels of the residual noise and of the leak."""
    powers = [[40.0, 1.0], [8.0, 0.5], [1.5, 0.1], [0.2, 0.02], [0.03, 0.01]]
    ends = {"max_leak": 1e-4, "residual_noise": 1e-3}
    levels = log_snr(SCHEDULES["octave"].alphas_bar(1000, powers, 16, 0.1, kappa=kappa, **ends))
    spectrum = spectrum_from_octaves(powers, 16, 0.1)
    counts, variances = spectrum.counts, spectrum.variances
    assert spectrum.leak(levels[-1]) == pytest.approx(1e-4, rel=1e-2)
    first = -np.log(1e-3 * (counts @ variances) / 512)  # of 2·16·16 numbers

    grid = np.linspace(levels[-1], first, 20_001)
    gain = 1 / (1 + np.exp(-grid[:, None]) / variances)
    modes = [np.where(spectrum.octaves == k, counts, 0) for k in range(5)]
    price, structure = (np.mean([v @ m / m.sum() for m in modes], axis=0) for v in (gain**2, gain))
    density = np.sqrt(price / (1 - kappa * structure))
    above = np.append(0, np.cumsum((density[1:] + density[:-1])[::-1]))[::-1]  # of the steps, cleaner than a level
    np.testing.assert_allclose(np.interp(levels, grid, above / above[0]), np.arange(1, 1001) / 1000, atol=1e-4)
