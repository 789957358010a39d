"""Every schedule saved, loaded and converted to the other diffusers schedulers and back, with the same ᾱ and steps."""

import inspect

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler

from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.scheduling_base import stock_arguments
from tests.support.example_schedules import example
from tests.support.without_project import run_without_project

SOLVERS = [
    diffusers.DDPMScheduler,
    diffusers.DDIMScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.DPMSolverSinglestepScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
]
# These two have no rescale_betas_zero_snr: a last ᾱ of 0 makes their first step infinite.
WITHOUT_ZERO_SNR = {diffusers.DPMSolverSinglestepScheduler, diffusers.HeunDiscreteScheduler}
OTHER_ARGUMENTS = {
    "linear": {"beta_start": 2e-4, "beta_end": 0.05},
    "cosine": {"s": 0.02},
    "sigmoid": {"tau": 0.7, "start": -2.0, "end": 4.0},
    "cosine_log_snr": {"shift": -1.0, "shift_clean": -0.5},
}
COMMON = {"num_train_timesteps": 300, "prediction_type": "v_prediction"}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_solver = pytest.mark.parametrize("solver", SOLVERS)
with_and_without_zero_snr = pytest.mark.parametrize("zero_snr", [False, True])


def other_example(name, **arguments):
    """The schedule with other arguments than its defaults."""
    return example(name, **COMMON, **OTHER_ARGUMENTS.get(name, {}), **arguments)


def accepted(solver, **arguments):
    return {key: value for key, value in arguments.items() if key in inspect.signature(solver).parameters}


def trajectory(scheduler, count=10):
    """The states of a run of a few steps with a made-up network, in float64."""
    scheduler.set_timesteps(count)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator) * scheduler.init_noise_sigma
    states = []
    for t in scheduler.timesteps:
        velocity = torch.sin(3 * scheduler.scale_model_input(x, t))
        x = scheduler.step(velocity, t, x, **accepted(scheduler.step, generator=generator)).prev_sample
        states.append(x)
    return torch.stack(states)


@every_schedule
@with_and_without_zero_snr
def test_save_and_load(name, zero_snr, tmp_path):
    """The same arguments, the same ᾱ and the same steps; as a stock scheduler too."""
    arguments = {"variance_type": "fixed_large", "rescale_betas_zero_snr": zero_snr, "input_scale": 0.9}
    scheduler = other_example(name, **arguments)
    scheduler.save_pretrained(tmp_path / "own")
    loaded = SCHEDULES[name].from_pretrained(tmp_path / "own")
    for key, value in {**COMMON, **OTHER_ARGUMENTS.get(name, {}), **arguments}.items():
        assert loaded.config[key] == value
    scheduler.to_stock().save_pretrained(tmp_path / "stock")
    for one in (loaded, scheduler.to_stock(), DDPMScheduler.from_pretrained(tmp_path / "stock")):
        torch.testing.assert_close(one.alphas_cumprod, scheduler.alphas_cumprod, rtol=0, atol=0)
        torch.testing.assert_close(trajectory(one), trajectory(scheduler), rtol=0, atol=0)


@every_schedule
@every_solver
@with_and_without_zero_snr
def test_conversion_there_and_back(name, solver, zero_snr):
    scheduler = other_example(name, rescale_betas_zero_snr=zero_snr)
    converted = solver.from_config(scheduler.config)
    back = SCHEDULES[name].from_config(converted.config)
    torch.testing.assert_close(back.alphas_cumprod, scheduler.alphas_cumprod, rtol=0, atol=0)
    for key, value in OTHER_ARGUMENTS.get(name, {}).items():
        assert back.config[key] == value
    assert back.config.rescale_betas_zero_snr == zero_snr
    for one in (converted, back):
        assert one.config.prediction_type == "v_prediction" and one.config.timestep_spacing == "trailing"

    if not zero_snr:
        torch.testing.assert_close(converted.alphas_cumprod, scheduler.alphas_cumprod, rtol=0, atol=0)
    else:
        # Where σ/a must be finite, diffusers puts 2⁻²⁴ for the last ᾱ; those that do not rescale skip one rounding.
        exact = 0 if solver not in WITHOUT_ZERO_SNR else 2e-6
        torch.testing.assert_close(converted.alphas_cumprod[:-1], scheduler.alphas_cumprod[:-1], rtol=0, atol=exact)
        knows_limit = solver not in WITHOUT_ZERO_SNR | {diffusers.DDPMScheduler, diffusers.DDIMScheduler}
        assert converted.alphas_cumprod[-1] == (2**-24 if knows_limit else 0)


@every_schedule
@pytest.mark.parametrize(
    ("solver", "zero_snr"),
    [*((s, False) for s in SOLVERS), *((s, True) for s in SOLVERS if s not in WITHOUT_ZERO_SNR)],
)
def test_converted_solvers_step_like_ones_built_from_the_betas(name, solver, zero_snr):
    scheduler = other_example(name, rescale_betas_zero_snr=zero_snr)
    direct = accepted(
        solver,
        **COMMON,
        trained_betas=scheduler.config.trained_betas,
        timestep_spacing="trailing",
        clip_sample=True,
        rescale_betas_zero_snr=zero_snr,
    )
    states = trajectory(solver.from_config(scheduler.config))
    torch.testing.assert_close(states, trajectory(solver(**direct)), rtol=0, atol=0)
    assert states.isfinite().all()


@pytest.mark.parametrize("solver", sorted(WITHOUT_ZERO_SNR, key=str))
def test_solvers_that_cannot_start_from_pure_noise(solver):
    scheduler = other_example("linear", rescale_betas_zero_snr=True)
    assert "rescale_betas_zero_snr" not in inspect.signature(solver).parameters
    assert not trajectory(solver.from_config(scheduler.config)).isfinite().all()


def test_stock_schedulers_need_only_diffusers(tmp_path):
    cases = {(name, zero_snr): f"{name}_{zero_snr}" for name in SCHEDULES for zero_snr in (False, True)}
    for (name, zero_snr), folder in cases.items():
        options = {"clip_sample": False, "variance_type": "fixed_large", "rescale_betas_zero_snr": zero_snr}
        stock = other_example(name, **options).to_stock()
        assert type(stock) is DDPMScheduler
        assert {key for key in stock.config if not key.startswith("_")} == set(stock_arguments())
        stock.save_pretrained(tmp_path / folder)
    code = f"""
import torch
from diffusers import DDPMScheduler
loaded = {{name: DDPMScheduler.from_pretrained(name) for name in {list(cases.values())}}}
assert all(s.config.clip_sample is False and s.config.variance_type == "fixed_large" for s in loaded.values())
torch.save({{name: s.alphas_cumprod for name, s in loaded.items()}}, "alphas.pt")
"""
    run_without_project(code, tmp_path)
    alphas = torch.load(tmp_path / "alphas.pt")
    for (name, zero_snr), folder in cases.items():
        expected = other_example(name, rescale_betas_zero_snr=zero_snr).alphas_cumprod
        torch.testing.assert_close(alphas[folder], expected, rtol=0, atol=0)


def test_a_pipeline_that_was_saved_with_a_schedule_loads_with_it(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(8, 1, 1, block_out_channels=(8, 16), norm_num_groups=4, **blocks)
    diffusers.DDPMPipeline(unet, SCHEDULES["cosine"](s=0.01)).save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path).scheduler
    assert type(loaded) is SCHEDULES["cosine"] and loaded.config.s == 0.01
