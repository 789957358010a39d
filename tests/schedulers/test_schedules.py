"""Every schedule against a closed form written another way, and through every conversion that diffusers offers."""

import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from without_project import run_without_project

from schedulers import SCHEDULES, CosineScheduler, LinearScheduler, SigmoidScheduler
from schedulers.scheduling_base import stock_arguments


def linear_by_hand(T=1000, first=1e-4, last=0.02):
    product, values = 1.0, []
    for i in range(T):
        product *= 1 - (first + (last - first) * i / (T - 1))
        values.append(product)
    return np.array(values)


def cosine_by_hand(T=1000, s=0.008):
    """cos² as (1 + cos 2x)/2, and β ≤ .999 as a floor on each quotient."""
    f = [(1 + math.cos((i / T + s) / (1 + s) * math.pi)) / 2 for i in range(T + 1)]
    product, values = 1.0, []
    for i in range(T):
        product *= max(f[i + 1] / f[i], 0.001)
        values.append(product)
    return np.array(values)


def sigmoid_by_hand(T=1000, start=-3.0, end=3.0, tau=0.5):
    """The logistic function as (1 + tanh(x/2))/2, whose constants cancel."""
    at = [math.tanh((start + (end - start) * i / T) / (2 * tau)) for i in range(T + 1)]
    return np.array([max((at[-1] - a) / (at[-1] - at[0]), 1e-9) for a in at[1:]])


BY_HAND = {"linear": linear_by_hand, "cosine": cosine_by_hand, "sigmoid": sigmoid_by_hand}
OTHER_ARGUMENTS = {
    "linear": {"beta_start": 2e-4, "beta_end": 0.05, "num_train_timesteps": 300},
    "cosine": {"s": 0.02, "num_train_timesteps": 300},
    "sigmoid": {"tau": 0.7, "start": -2.0, "end": 4.0, "num_train_timesteps": 300},
}
FORMULAS = [
    (LinearScheduler.alphas_bar(1000, 1e-4, 0.02), linear_by_hand()),
    (LinearScheduler.alphas_bar(300, 2e-4, 0.05), linear_by_hand(300, 2e-4, 0.05)),
    (CosineScheduler.alphas_bar(1000, 0.008), cosine_by_hand()),
    (CosineScheduler.alphas_bar(300, 0.02), cosine_by_hand(300, 0.02)),
    (SigmoidScheduler.alphas_bar(1000, tau=0.5, start=-3.0, end=3.0), sigmoid_by_hand()),
    (SigmoidScheduler.alphas_bar(300, tau=0.7, start=-2.0, end=4.0), sigmoid_by_hand(300, -2.0, 4.0, 0.7)),
]
SOLVERS = [
    diffusers.DDIMScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def log_snr(alphas_cumprod):
    alphas_cumprod = torch.as_tensor(alphas_cumprod).double()
    return torch.log(alphas_cumprod) - torch.log1p(-alphas_cumprod)


@pytest.mark.parametrize(("formula", "by_hand"), FORMULAS)
def test_formulas_in_float64(formula, by_hand):
    # Cosine and sigmoid cancel digits near t = 1, where ᾱ is 1e-9.
    np.testing.assert_allclose(formula, by_hand, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(1 - formula, 1 - by_hand, rtol=1e-9)


@every_schedule
def test_what_the_scheduler_uses_is_the_formula(name):
    """In log-SNR too, where float32 betas cost up to a thousandth at the two ends."""
    scheduler, expected = SCHEDULES[name](), BY_HAND[name]()
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(log_snr(scheduler.alphas_cumprod), log_snr(expected), rtol=0, atol=2e-3)


@every_schedule
def test_signal_falls_strictly(name):
    alphas_cumprod = SCHEDULES[name]().alphas_cumprod
    assert len(alphas_cumprod) == 1000 and alphas_cumprod.dtype == torch.float32
    assert alphas_cumprod[0] < 1 and alphas_cumprod[-1] > 0
    assert (alphas_cumprod.diff() < 0).all()


@pytest.mark.parametrize(("name", "crossing", "last"), [("linear", 259, -10.118), ("cosine", 496, -19.836)])
def test_known_points(name, crossing, last):
    """The first index with SNR < 1, and the last log-SNR."""
    values = log_snr(SCHEDULES[name]().alphas_cumprod)
    assert int((values < 0).nonzero()[0]) == crossing
    assert values[-1].item() == pytest.approx(last, abs=2e-3)


def test_cosine_is_diffusers_cosine():
    stock = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(CosineScheduler().betas, stock.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(CosineScheduler().alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)


def test_linear_is_diffusers_linear():
    torch.testing.assert_close(LinearScheduler().betas, DDPMScheduler().betas, rtol=1e-6, atol=0)


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


@every_schedule
def test_save_and_load(name, tmp_path):
    """The same arguments, the same ᾱ and the same step."""
    scheduler = SCHEDULES[name](**OTHER_ARGUMENTS[name], prediction_type="v_prediction", variance_type="fixed_large")
    scheduler.save_pretrained(tmp_path)
    loaded = SCHEDULES[name].from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.alphas_cumprod, scheduler.alphas_cumprod, rtol=0, atol=0)
    x, v = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = []
    for one in (scheduler, loaded):
        one.set_timesteps(10)
        t = one.timesteps[3]
        steps.append(one.step(v, t, x, generator=torch.Generator().manual_seed(1)).prev_sample)
    torch.testing.assert_close(steps[1], steps[0], rtol=0, atol=0)
    for key, value in OTHER_ARGUMENTS[name].items():
        assert loaded.config[key] == value


@every_schedule
@pytest.mark.parametrize("other", SOLVERS)
def test_conversion_there_and_back(name, other):
    scheduler = SCHEDULES[name](**OTHER_ARGUMENTS[name], prediction_type="v_prediction")
    converted = other.from_config(scheduler.config)
    back = SCHEDULES[name].from_config(converted.config)
    for one in (converted, back):
        torch.testing.assert_close(one.alphas_cumprod, scheduler.alphas_cumprod, rtol=0, atol=0)
        assert one.config.prediction_type == "v_prediction"
        assert one.config.timestep_spacing == "trailing"
    for key, value in OTHER_ARGUMENTS[name].items():
        assert back.config[key] == value


@every_schedule
def test_incoming_betas_do_not_override_the_formula(name):
    expected = SCHEDULES[name]().alphas_cumprod
    torch.testing.assert_close(SCHEDULES[name](trained_betas=[0.5] * 10).alphas_cumprod, expected, rtol=0, atol=0)


def test_stock_schedulers_need_only_diffusers(tmp_path):
    for name, schedule in SCHEDULES.items():
        stock = schedule(**OTHER_ARGUMENTS[name], clip_sample=False, variance_type="fixed_large").to_stock()
        assert type(stock) is DDPMScheduler
        assert {key for key in stock.config if not key.startswith("_")} == set(stock_arguments())
        stock.save_pretrained(tmp_path / name)
    code = f"""
import torch
from diffusers import DDPMScheduler
loaded = {{name: DDPMScheduler.from_pretrained(name) for name in {list(SCHEDULES)}}}
assert all(s.config.clip_sample is False and s.config.variance_type == "fixed_large" for s in loaded.values())
torch.save({{name: s.alphas_cumprod for name, s in loaded.items()}}, "alphas.pt")
"""
    run_without_project(code, tmp_path)
    alphas = torch.load(tmp_path / "alphas.pt")
    for name, schedule in SCHEDULES.items():
        expected = schedule(**OTHER_ARGUMENTS[name]).alphas_cumprod
        torch.testing.assert_close(alphas[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("schedule", "arguments", "sentence"),
    [
        (LinearScheduler, {"beta_end": 1.0}, "LinearScheduler: alphas_cumprod must fall strictly"),
        (LinearScheduler, {"beta_start": 0.0}, "must fall strictly"),
        (LinearScheduler, {"beta_start": -0.01}, "must fall strictly"),
        (LinearScheduler, {"beta_end": math.nan}, "is not finite"),
        (LinearScheduler, {"num_train_timesteps": 100_000}, "must fall strictly"),  # ᾱ underflows to 0
        (CosineScheduler, {"s": math.nan}, "CosineScheduler: alphas_cumprod is not finite"),
        (CosineScheduler, {"s": -0.5}, "must fall strictly"),
        (SigmoidScheduler, {"tau": 0.0}, "SigmoidScheduler: tau=0.0 must be above 0"),
        (SigmoidScheduler, {"tau": -1.0}, "must be above 0"),
        (SigmoidScheduler, {"tau": math.nan}, "must be above 0"),
        (SigmoidScheduler, {"start": 3.0}, "end=3.0 above start=3.0"),
        (SigmoidScheduler, {"tau": 0.1}, "must fall strictly"),
    ],
)
def test_refused_parameters(schedule, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        schedule(**arguments)


@every_schedule
@pytest.mark.parametrize("count", [0, -3])
def test_refused_number_of_timesteps(name, count):
    with pytest.raises(ValueError):
        SCHEDULES[name](num_train_timesteps=count)


@pytest.mark.parametrize(
    ("schedule", "arguments"),
    [(LinearScheduler, {"beta_start": 1e-12}), (SigmoidScheduler, {"tau": 0.2})],
)
def test_refused_when_float32_cannot_hold_the_first_step(schedule, arguments):
    """Diffusers keeps ᾱ in float32: one that rounds to 1 has an infinite SNR."""
    with pytest.raises(ValueError, match="must fall strictly"):
        schedule(**arguments)
