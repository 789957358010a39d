"""DDPM's step with noise that is drawn ahead: the bits are those of diffusers' step, which draws its own."""

import itertools
import threading
import time

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor

from pipelines import pipeline_class_conditional as module
from pipelines.pipeline_class_conditional import _noises
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline

SHAPE = (3, 1, 8, 8)


class OwnStep(DDPMScheduler):
    """A scheduler with a step of its own, which only calls diffusers': the pipeline leaves the noise to it."""

    def step(self, model_output, timestep, sample, generator=None):
        return super().step(model_output, timestep, sample, generator)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]


def trajectory(scheduler, generator, **arguments):
    """x_t after every step."""
    pipeline = tiny_pipeline(scheduler)
    seen = []
    arguments = {"class_labels": [0, 1, 2], "guidance_scale": 2.0, "num_inference_steps": 4, **arguments}
    pipeline(**arguments, generator=generator, callback_on_step_end=lambda _p, _i, _t, x: seen.append(x["latents"]))
    return torch.stack(seen)


@pytest.mark.parametrize("clip", [{"clip_sample": False}, {"clip_sample_range": 0.7}, {"thresholding": True}])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"])
def test_the_step_is_that_of_diffusers_to_the_bit(variance_type, prediction_type, clip):
    """(fixed_large_log is NaN in both: diffusers takes the root of a logarithm.)"""
    scheduler = DDPMScheduler(prediction_type=prediction_type, variance_type=variance_type, **clip)
    pipeline = tiny_pipeline(scheduler)
    noise_of = torch.Generator().manual_seed(1)
    x, output = (2 * torch.randn(SHAPE, generator=noise_of) for _ in range(2))
    for steps in (1000, 7):
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps[[0, steps // 2, -2, -1]]:
            theirs = scheduler.step(output, t, x, generator=generators())
            noise = randn_tensor(SHAPE, generator=generators()) if t > 0 else None
            following, clean = pipeline._ancestral_step(output, t, x, noise)
            torch.testing.assert_close(following, theirs.prev_sample, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(clean, theirs.pred_original_sample, rtol=0, atol=0)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_images_of_own_generators_are_what_they_were(guided, ahead, monkeypatch):
    """On threads as without; each generator is left where diffusers leaves it."""
    monkeypatch.setattr(module, "_noises", lambda *a, **how: _noises(*a, **{**how, "ahead": ahead}))
    how = {"classifier": tiny_classifier(), "classifier_scale": 3.0} if guided else {}
    before, now = generators(), generators()
    monkeypatch.setattr(DDPMScheduler, "step", step := spied(DDPMScheduler.step))
    theirs = trajectory(OwnStep(), before, **how)
    assert step.calls == 4
    ours = trajectory(DDPMScheduler(), now, **how)
    assert step.calls == 4  # none more
    assert torch.equal(ours, theirs)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(before, now))


def spied(function):
    """The same function, which counts its calls."""

    def counted(*arguments, **more):
        counted.calls += 1
        return function(*arguments, **more)

    counted.calls = 0
    return counted


def test_one_generator_for_all_images_is_left_to_diffusers():
    one = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(trajectory(DDPMScheduler(), one[0]), trajectory(OwnStep(), one[1]))


def test_an_interrupted_call_leaves_no_threads(monkeypatch):
    monkeypatch.setattr(module, "_noises", lambda *a, **how: _noises(*a, **{**how, "ahead": True}))
    pipeline = tiny_pipeline(DDPMScheduler())

    def interrupt(*_):
        assert any(thread.name.startswith("noise") for thread in threading.enumerate())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline([0, 1, 2], num_inference_steps=4, generator=generators(), callback_on_step_end=interrupt)
    assert not any(thread.name.startswith("noise") for thread in threading.enumerate())


@pytest.mark.parametrize("images", [1, 3, 9])
def test_noise_ahead_is_the_same_noise(images):
    like = torch.empty(images, 3, 5, 4, dtype=torch.float64)
    own = [[torch.Generator().manual_seed(seed) for seed in range(images)] for _ in range(3)]
    expected = [randn_tensor(like.shape, generator=own[0], dtype=like.dtype) for _ in range(4)]
    for found, ahead in ((own[1], False), (own[2], True)):
        noises = list(_noises(found, like, 4, ahead=ahead))
        assert all(torch.equal(*pair) for pair in itertools.zip_longest(noises, expected))


def test_noise_is_drawn_while_the_step_before_is_computed():
    like, own = torch.empty(SHAPE), generators()
    noises = _noises(own, like, 2, ahead=True)
    next(noises)
    twice = torch.Generator().manual_seed(5)
    for _ in range(2):
        torch.randn(1, 1, 8, 8, generator=twice)
    deadline = time.monotonic() + 20
    while not torch.equal(own[0].get_state(), twice.get_state()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert torch.equal(own[0].get_state(), twice.get_state())
    noises.close()
