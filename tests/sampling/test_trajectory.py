"""The recorded steps: those of the same drawing, and of a loop written by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cardiff.diffusion.levels import exact_log_snr
from cardiff.diffusion.randomness import image_generator
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.hub.serialization import load_pipeline, save_pipeline
from cardiff.sampling.draw import Plan, make_plan
from cardiff.sampling.grid import grid_of
from cardiff.sampling.guidance import Guidance
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.sampling.trajectory import MOST_IMAGES, record, viewable
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.sampled import STEPS, pixels
from tests.support.tiny_models import gaussian_pipeline, tiny_pipeline

SCALES = [0, 2.5]


def recorded(options, **changes):
    return record(make_plan(replace(options, output=None, animation="x.gif", **changes)), this_process())


@pytest.fixture
def options(model):
    return SampleOptions(str(model), animation="x.gif", labels="bee,ant", steps=STEPS, seed=3)


@pytest.mark.parametrize("plus_plus", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_recording_changes_no_byte(solver, plus_plus, options, tmp_path):
    """In batches that do not divide the images, at two scales; the last x_t and x̂₀ are the images."""
    chosen = replace(options, solver=solver, num_images=4, batch_size=3, guidance_scale=SCALES)
    if plus_plus:
        chosen = replace(chosen, cfg_plus_plus=True, guidance_scale=[0, 0.8])
    trajectory = recorded(chosen)
    grid = grid_of(make_plan(replace(chosen, animation=None, grid="x.png")), this_process())
    assert trajectory.images.shape == (2, 4, 8, 8, 3) and (trajectory.images[0] != trajectory.images[1]).any()
    np.testing.assert_array_equal(trajectory.images, grid.blocks)
    np.testing.assert_array_equal(trajectory.noisy[-1], grid.blocks)
    np.testing.assert_allclose(trajectory.clean[-1], grid.blocks.astype(int), rtol=0, atol=1)
    assert trajectory.grid.entries() == grid.entries()
    for scale in (0, 1):  # each image starts from its own noise
        np.testing.assert_array_equal(trajectory.noisy[0, scale], recorded(chosen, batch_size=4).noisy[0, 0])
    assert len(np.unique(trajectory.noisy[0, 0], axis=0)) == 4
    # Single images are those of the first scale, with their classes in turn.
    folder = run(replace(chosen, animation=None, output=str(tmp_path), num_images=2, guidance_scale=[0]))
    alone = recorded(chosen, num_images=2, guidance_scale=[0], batch_size=3)
    np.testing.assert_array_equal(alone.images[0], pixels(folder, 2))


@pytest.mark.parametrize("solver", ["dpm", "ddpm", "euler"])
def test_the_steps_are_those_of_a_loop_written_by_hand(solver, options):
    """diffusers' own x̂₀ of every step, at guidance 2, and x_t from its scheduler."""
    trajectory = recorded(options, solver=solver, guidance_scale=[2])
    pipeline = load_pipeline(options.model)
    scheduler = pipeline.scheduler = make_solver(pipeline.scheduler, solver)
    pipeline.set_timesteps(STEPS)
    generators = [image_generator(3, i) for i in range(2)]
    x = torch.cat([torch.randn(1, 3, 8, 8, generator=g) for g in generators]) * scheduler.init_noise_sigma
    labels, null = torch.tensor([1, 0]), torch.tensor([3, 3])
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x, t)
        with torch.no_grad():
            strong, weak = (pipeline.unet(x_t, t, ids).sample for ids in (labels, null))
        variance = scheduler.alphas_cumprod[int(t)] + 4 * (1 - scheduler.alphas_cumprod[int(t)])
        np.testing.assert_allclose(trajectory.noisy[i, 0], shown(x_t / variance**0.5), rtol=0, atol=1)
        result = scheduler.step(weak + 2 * (strong - weak), t, x, generator=generators)
        x0 = scheduler.model_outputs[-1] if solver == "dpm" else result.pred_original_sample
        assert (x0.abs() < 1).float().mean() > 0.4  # what is clipped would show nothing
        np.testing.assert_allclose(trajectory.clean[i, 0], shown(x0), rtol=0, atol=1)
        x = result.prev_sample


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_steps_of_cfg_plus_plus(solver, options):
    """x̂₀ = x̂₀(∅) + λ·(x̂₀(c) − x̂₀(∅)), and a step of DDIM or Euler with ε(∅): Chung et al., algorithm 2."""
    trajectory = recorded(options, solver=solver, guidance_scale=[0.7], cfg_plus_plus=True)
    pipeline = load_pipeline(options.model)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    signal = pipeline.scheduler.alphas_cumprod.double()
    x = torch.cat([torch.randn(1, 3, 8, 8, generator=image_generator(3, i)) for i in range(2)])
    labels, null = torch.tensor([1, 0]), torch.tensor([3, 3])
    for i, t in enumerate(trajectory.timesteps):
        a, sigma = signal[t] ** 0.5, (1 - signal[t]) ** 0.5
        np.testing.assert_allclose(trajectory.noisy[i, 0], shown(x / (a**2 + 4 * sigma**2) ** 0.5), rtol=0, atol=1)
        with torch.no_grad():
            strong, weak = (pipeline.unet(x.float(), int(t), ids).sample for ids in (labels, null))
        clean = a * x - sigma * (weak + 0.7 * (strong - weak))
        np.testing.assert_allclose(trajectory.clean[i, 0], shown(clean), rtol=0, atol=1)
        clean = clean.clamp(-1, 1) if solver in ("ddim", "ddpm") else clean
        if solver not in ("ddim", "euler"):
            break  # others combine several steps, or draw noise
        s = trajectory.timesteps[i + 1] if i + 1 < len(trajectory.timesteps) else None
        x = clean if s is None else signal[s] ** 0.5 * clean + (1 - signal[s]) ** 0.5 * (sigma * x + a * weak)
    assert trajectory.noisy.shape[0] == STEPS + 1


def shown(x):
    """[−1, 1] as numbers from 0 to 255."""
    return ((x.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("solver", ["dpm", "ddpm", "euler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_estimate_is_the_posterior_mean_of_normal_pixels(prediction_type, solver):
    """E[x₀ | x_t] = m + a·v/(a²·v + σ²)·(x_t − a·m) for pixels of mean m and variance v, at the level of the step."""
    mean, variance = np.array([0.4, -0.3]), 0.09
    trained = LinearScheduler(prediction_type=prediction_type)
    pipeline = gaussian_pipeline(trained, make_solver(trained, solver), [0.4, -0.3, 0.0], [variance] * 3, 8)
    options = SampleOptions("exact", animation="x.gif", steps=6, solver=solver)
    guidance = Guidance({}, [{"guidance_scale": 1.0}], {})
    pipeline.set_timesteps(6)
    plan = Plan(Path("exact"), pipeline, options, [0, 1], guidance, None, lambda count: None)
    trajectory = record(plan, this_process())
    assert trajectory.clean.shape == (6, 1, 2, 8, 8, 1)
    signal = trained.alphas_cumprod.double().numpy()[trajectory.timesteps]
    for noisy, clean, power in zip(trajectory.noisy, trajectory.clean, signal):
        inner = (noisy > 0) & (noisy < 255)
        x = (noisy / 127.5 - 1) * (power + 4 * (1 - power)) ** 0.5
        m, a = mean[:, None, None, None], power**0.5
        expected = m + a * variance / (power * variance + 1 - power) * (x - a * m)
        error = np.abs(clean / 127.5 - 1 - np.clip(expected, -1, 1))[inner]
        assert inner.mean() > 0.9 and error.max() < 0.012  # a pixel value of x_t is 0.016


def test_a_schedule_that_ends_in_pure_noise(tmp_path):
    """ᾱ = 0: log-SNR is −∞, x_t the noise, and v still gives an x̂₀."""
    scheduler = CosineScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True).to_stock()
    save_pipeline(tiny_pipeline(scheduler), tmp_path / "model")
    trajectory = recorded(SampleOptions(str(tmp_path / "model"), labels="0", solver="ddpm", steps=STEPS, animation=""))
    assert trajectory.log_snr[0] == -np.inf and np.isfinite(trajectory.schedule).all()
    noise = torch.randn(1, 1, 8, 8, generator=image_generator(0, 0))
    np.testing.assert_allclose(trajectory.noisy[0, 0], shown(noise / 2), rtol=0, atol=1)
    assert trajectory.clean[0].std() > 0


def test_the_levels_are_those_of_the_schedule(options):
    trajectory = recorded(options, timesteps_from="linear", steps=7)
    trained = exact_log_snr(CosineScheduler().alphas_cumprod).numpy()
    np.testing.assert_allclose(trajectory.schedule, trained, rtol=1e-5)
    np.testing.assert_allclose(trajectory.log_snr, trained[trajectory.timesteps], rtol=1e-5)
    assert (np.diff(trajectory.timesteps) < 0).all() and (np.diff(trajectory.log_snr) > 0).all()
    assert trajectory.steps == 7 == len(trajectory.clean) == len(trajectory.noisy) - 1


def test_viewable():
    """Two standard deviations of noise; an image itself."""
    x = torch.tensor([-2.5, -2, -1, 0, 1, 2]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(viewable(x, -np.inf).ravel(), [0, 0, 64, 128, 191, 255])
    np.testing.assert_array_equal(viewable(x / 2, np.inf).ravel(), [0, 0, 64, 128, 191, 255])


def test_one_image_of_each_class_by_default(options, unconditional, tmp_path):
    trajectory = recorded(options, labels=None)
    assert trajectory.grid.names == ["ant", "bee", "cat, black"] and trajectory.images.shape[:2] == (1, 3)
    assert recorded(options, model=str(unconditional), labels=None).images.shape[:2] == (1, 8)
    save_pipeline(tiny_pipeline(id2label={i: f"class {i}" for i in range(20)}), tmp_path / "model")
    many = recorded(options, model=str(tmp_path / "model"), labels=None)
    assert many.grid.names == [f"class {i}" for i in range(MOST_IMAGES)] and many.images.shape[1] == MOST_IMAGES


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"num_images": 17, "labels": "0"},
            "at most 16 images of each scale, but these options ask for 17",
        ),
        ({"labels": ",".join("012" * 6)}, "ask for 18: give fewer --labels or a smaller --num_images"),
        ({"animation": "x.mov"}, r"--animation x.mov must end in .gif or .webp or .png or .apng or .mp4: change the"),
        ({"animation": None}, "Give either --output DIR .* --grid FILE .* --animation FILE"),
        ({"grid": "x.png"}, "Give either --output DIR .* --grid FILE .* --animation FILE"),
        ({"output": "x"}, "Give either --output DIR .* --grid FILE .* --animation FILE"),
    ],
)
def test_refused(changes, sentence, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        run(replace(options, **changes))
    assert not list(tmp_path.iterdir())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("where", ["progress", "on_step"])
def test_what_watches_the_drawing_can_stop_it(where, options):
    """And sees each step before it is recorded."""
    plan = make_plan(replace(options, num_images=4, batch_size=2), progress=lambda count: None)
    seen = []

    def watch(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            raise Stopped

    setattr(plan, where, watch)
    with pytest.raises(Stopped):
        record(plan, this_process())
    assert [arguments[0] for arguments in seen] == ([2, 2] if where == "progress" else [0, 1])


def test_two_processes_write_what_one_does(launch, options, tmp_path):
    arguments = [
        *("--model", options.model, "--labels", "0,1,2", "--steps", STEPS, "--batch_size", 2),
        *("--guidance_scale", "1,3", "--animation"),
    ]
    for processes in (1, 2):
        launch("sample.py", *arguments, tmp_path / f"{processes}.webp", processes=processes)
    one, two = (Image.open(tmp_path / f"{processes}.webp") for processes in (1, 2))
    assert one.n_frames == two.n_frames == STEPS + 1
    assert (tmp_path / "1.webp").read_bytes() == (tmp_path / "2.webp").read_bytes()
