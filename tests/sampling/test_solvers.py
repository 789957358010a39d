"""Solvers by name, with the settings of the model."""

import copy

import pytest
import torch

from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm", "unipc"])
def test_solvers_clip_at_one_if_the_model_does(name, clip):
    """A network that sees one image behind everything: every solver ends with it, cut to [-1, 1] or as it is.

    What lies within stays as it is too, where a bound above 1 would also divide by itself.
    """
    seen = torch.tensor([3.0, 0.6, -0.2, -5.0]).repeat(16).reshape(1, 1, 8, 8)
    solver = make_solver(CosineScheduler(prediction_type="v_prediction", clip_sample=clip).to_stock(), name)
    solver.set_timesteps(5)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in solver.timesteps:
        signal = solver.alphas_cumprod[t]
        result = solver.step((signal.sqrt() * x - seen) / (1 - signal).sqrt(), t, x)
        x = result.prev_sample
    x = result.pred_original_sample if name == "ddpm" else x  # diffusers adds noise after the last of few steps
    torch.testing.assert_close(x, seen.clamp(-1, 1) if clip else seen, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_have_the_model_s_own_settings(name):
    trained = LinearScheduler(
        num_train_timesteps=200,
        prediction_type="v_prediction",
        variance_type="fixed_large",
        clip_sample=False,
        timestep_spacing="leading",
    ).to_stock()
    solver = make_solver(trained, name)
    assert torch.equal(solver.alphas_cumprod, trained.alphas_cumprod)
    for key in ("num_train_timesteps", "prediction_type", "timestep_spacing"):
        assert solver.config[key] == trained.config[key]
    assert solver.config.get("clip_sample", False) is False and solver.config.get("thresholding", False) is False
    if name == "ddpm":
        assert solver.config.variance_type == "fixed_large"


def test_dpm_starts_where_there_is_something_to_see():
    """At the first level above a log-SNR of −10.2, and the last step of every solver ends at the clean image."""
    trained = CosineScheduler().to_stock()
    log_snr = torch.logit(trained.alphas_cumprod.double())
    solver = make_solver(trained, "dpm")
    solver.set_timesteps(10)
    first = int(solver.timesteps[0])
    assert log_snr[first] >= -10.2 and first + 2 < len(log_snr) and log_snr[first + 2] < -10.2
    assert make_solver(trained, "ddim").final_alpha_cumprod == 1


@pytest.mark.parametrize("name", ["dpm", "unipc"])
def test_clipping_is_diffusers_thresholding_without_its_quantile(name, tmp_path, monkeypatch):
    """The same bits; what is saved and what is made of its configuration are diffusers' own solvers."""
    solver = make_solver(CosineScheduler(prediction_type="v_prediction").to_stock(), name)
    solver.save_pretrained(tmp_path)
    plain = [type(solver).from_pretrained(tmp_path), type(solver).from_config(solver.config)]
    values = (
        torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.1, 1, 9])[:, None, None, None]
    )
    for other in plain:
        assert type(other) is type(solver) and other.to_json_string() == solver.to_json_string()
        assert torch.equal(other._threshold_sample(values), solver._threshold_sample(values))
    copy.deepcopy(solver)
    monkeypatch.setattr(torch, "quantile", None)
    assert solver._threshold_sample(values).abs().max() == 1
