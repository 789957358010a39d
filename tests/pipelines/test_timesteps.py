"""Any number of steps: n different timesteps, diffusers' own wherever those are, and samples that are right."""

import math

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import SCHEDULES, CosineScheduler
from tests.pipelines.test_class_conditional import final_latents, gaussian_after, noise_levels, seeded
from tests.support.tiny_models import gaussian_pipeline, tiny_pipeline

ODD = [61, 224, 250, 999]
"""Numbers for which trailing spacing has a step too many, alone or with lambda_min_clipped, or too few."""


def solver_of(schedule, solver, **options):
    return make_solver(SCHEDULES[schedule](prediction_type="v_prediction", **options).to_stock(), solver)


def falling(timesteps, total=1000):
    return timesteps[-1] >= 0 and timesteps[0] < total and all(a > b for a, b in zip(timesteps, timesteps[1:]))


@pytest.mark.parametrize(
    ("solver", "schedule"),
    [*((solver, "cosine") for solver in SOLVERS), *(("dpm", name) for name in ("jsd", "exponential", "linear"))],
)
def test_every_number_of_steps(solver, schedule):
    """And where diffusers has n different timesteps, these and their noise levels are not touched."""
    pipeline, alone = tiny_pipeline(solver_of(schedule, solver)), solver_of(schedule, solver)
    trained = ((1 - alone.alphas_cumprod) / alone.alphas_cumprod).sqrt()
    mended = 0
    for n in range(1, 1001):
        alone.set_timesteps(n)
        own = alone.timesteps.tolist()
        pipeline.set_timesteps(n)
        timesteps = pipeline.scheduler.timesteps.tolist()
        assert len(timesteps) == n and falling(timesteps), n
        sigmas = getattr(pipeline.scheduler, "sigmas", None)
        if sigmas is not None:
            torch.testing.assert_close(sigmas[:-1].float(), trained[[int(t) for t in timesteps]], rtol=1e-4, atol=0)
            assert len(sigmas) == n + 1 and sigmas[-1] == 0
        if len(own) == n and falling(own):
            assert timesteps == own and (sigmas is None or torch.equal(sigmas, alone.sigmas)), n
        else:
            mended += 1
            gaps = [a - b for a, b in zip(timesteps, [*timesteps[1:], -1])]
            assert timesteps[0] == (own[0] if n <= own[0] + 1 else 999), n
            assert max(gaps) - min(gaps) <= (2 if solver == "unipc" else 1), n  # evenly, but for rounding
    assert mended >= 62


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_other_spacings(solver, spacing):
    pipeline = tiny_pipeline(solver_of("cosine", solver, timestep_spacing=spacing))
    for n in (1, 2, 3, 25, 61, 333, 700, 998):
        pipeline.set_timesteps(n)
        timesteps = pipeline.scheduler.timesteps.tolist()
        assert len(timesteps) == n and falling(timesteps), n


@pytest.mark.parametrize("steps", ODD)
@pytest.mark.parametrize(
    ("solver", "schedule"),
    [*((solver, "cosine") for solver in SOLVERS if solver != "ddpm"), ("dpm", "sigmoid")],
)
def test_an_odd_number_finds_the_gaussian(solver, schedule, steps):
    """Pixels N(0.3, 0.25) from the exact denoiser; a deterministic solver maps x_T to about 0.3 + 0.5·x_T."""
    trained = SCHEDULES[schedule](clip_sample=False)
    pipeline = gaussian_pipeline(trained, make_solver(trained, solver), [0.3, 0.0], [0.25, 1.0], 16)
    images = final_latents(pipeline, class_labels=[0], num_inference_steps=steps, generator=seeded(0))
    start = randn_tensor(images.shape, generator=seeded(0), dtype=torch.float64)
    if solver in ("ddim", "euler"):
        mean, variance = gaussian_after(noise_levels(pipeline.scheduler), 0.3, 0.25, "ddim")
        torch.testing.assert_close(images, mean + math.sqrt(variance) * start, rtol=0, atol=2e-3)
    tolerance = 3 / steps if solver in ("ddim", "euler") else 0.01  # of first and second order
    torch.testing.assert_close(images, 0.3 + 0.5 * start, rtol=0, atol=tolerance)


@pytest.mark.parametrize("steps", [61, 999])
def test_ddpm_with_an_odd_number(steps):
    trained = CosineScheduler(clip_sample=False)
    pipeline = gaussian_pipeline(trained, make_solver(trained, "ddpm"), [0.3, 0.0], [0.25, 1.0], 64)
    images = final_latents(pipeline, class_labels=[0], num_inference_steps=steps, generator=seeded(0))
    mean, variance = gaussian_after(noise_levels(pipeline.scheduler), 0.3, 0.25, "small")
    assert images.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance) / 64)
    assert images.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2) / 64)


@pytest.mark.parametrize("timesteps", [[999, 700, 650, 10], [800, 33, 0]])
def test_ddim_steps_through_given_timesteps(timesteps):
    """Its own step would go to t − T // n."""
    trained = CosineScheduler(clip_sample=False)
    pipeline = gaussian_pipeline(trained, make_solver(trained, "ddim"), [0.3, 0.0], [0.25, 1.0], 16)
    images = final_latents(pipeline, class_labels=[0], timesteps=timesteps, generator=seeded(0))
    mean, variance = gaussian_after(noise_levels(pipeline.scheduler), 0.3, 0.25, "ddim")
    start = randn_tensor(images.shape, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(images, mean + math.sqrt(variance) * start, rtol=0, atol=1e-5)


# Schedulers of the user's own choice


def of_diffusers(kind, schedule="cosine", prediction_type="v_prediction", **options):
    trained = SCHEDULES[schedule](prediction_type=prediction_type, clip_sample=False)
    return trained, kind.from_config(trained.to_stock().config, **options)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (diffusers.HeunDiscreteScheduler, 0.05),
        (diffusers.DPMSolverSinglestepScheduler, 0.1),
        (diffusers.DEISMultistepScheduler, 0.06),
        (diffusers.LMSDiscreteScheduler, 0.01),
    ],
)
def test_other_solvers_find_the_gaussian(kind, tolerance, schedule, prediction_type):
    """25 steps. Heun from the last timestep of the cosine schedule ends with noise of 2.5 times the variance."""
    trained, scheduler = of_diffusers(kind, schedule, prediction_type)
    pipeline = gaussian_pipeline(trained, scheduler, [0.3, 0.0], [0.25, 1.0], 32)
    images = final_latents(pipeline, class_labels=[0], num_inference_steps=25, generator=seeded(0))
    start = randn_tensor(images.shape, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(images, 0.3 + 0.5 * start, rtol=0, atol=tolerance)


def test_heun_takes_a_number_with_a_step_too_many():
    pipeline = tiny_pipeline(of_diffusers(diffusers.HeunDiscreteScheduler, "linear")[1])
    pipeline.set_timesteps(61)
    timesteps = pipeline.scheduler.timesteps.tolist()
    assert len(timesteps) == 121 and falling(timesteps[::2]) and timesteps[0] == 999


@pytest.mark.parametrize(
    "kind",
    [diffusers.DEISMultistepScheduler, diffusers.LMSDiscreteScheduler, diffusers.EulerAncestralDiscreteScheduler],
)
def test_a_step_too_many_is_left_out(kind):
    trained, scheduler = of_diffusers(kind)
    scheduler.set_timesteps(61)
    assert len(scheduler.timesteps) == 62  # what is mended
    pipeline = gaussian_pipeline(trained, scheduler, [0.3, 0.0], [0.25, 1.0], 64)
    images = final_latents(pipeline, class_labels=[0], num_inference_steps=61, generator=seeded(0))
    assert len(scheduler.timesteps) == 61 and scheduler.timesteps[-1] >= 0
    assert images.mean().item() == pytest.approx(0.3, abs=0.05) and images.std().item() == pytest.approx(0.5, abs=0.05)


def test_heun_starts_where_its_slopes_are_comparable():
    pipeline = tiny_pipeline(of_diffusers(diffusers.HeunDiscreteScheduler)[1])
    levels = torch.logit(pipeline.scheduler.alphas_cumprod.double())
    pipeline.set_timesteps(25)
    first = int(pipeline.scheduler.timesteps[0])
    assert levels[first] >= -10.2 > levels[first + 1] and len(pipeline.scheduler.timesteps) == 49
    with pytest.raises(ValueError, match="=998: HeunDiscreteScheduler takes at most 996 on this noise schedule"):
        pipeline.set_timesteps(998)


@pytest.mark.parametrize(
    "kind",
    [diffusers.KDPM2DiscreteScheduler, diffusers.KDPM2AncestralDiscreteScheduler, diffusers.PNDMScheduler],
)
def test_solvers_that_would_end_with_noise_are_refused(kind):
    pipeline = tiny_pipeline(of_diffusers(kind, prediction_type="epsilon")[1])
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} combines predictions of ε at several noise levels, .*: use DPM"
    ):
        pipeline([0], num_inference_steps=25)
    for works in ({"schedule": "linear", "prediction_type": "epsilon"}, {"timestep_spacing": "leading"}):
        pipeline.scheduler = of_diffusers(kind, **works)[1]
        pipeline.set_timesteps(25)


@pytest.mark.parametrize("kind", [diffusers.IPNDMScheduler, diffusers.EDMEulerScheduler])
def test_schedulers_with_noise_levels_of_their_own_are_refused(kind):
    pipeline = tiny_pipeline(kind())
    with pytest.raises(
        ValueError, match=f"{kind.__name__} has no alphas_cumprod, so it does not have the noise levels"
    ):
        pipeline([0], num_inference_steps=25)
