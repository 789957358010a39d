"""The networks' precision and compilation: what they change, and that a folder is of one of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from cardiff.devices import float32_products
from cardiff.errors import UserError
from cardiff.hub.serialization import load_pipeline, save_classifier, save_pipeline
from cardiff.sampling.draw import draw, make_plan
from cardiff.sampling.sample import run
from cardiff.schedulers import CosineScheduler
from tests.support.sampled import manifest, pixels
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline


def test_bf16_draws_nearly_the_same_images_and_is_recorded(options, tmp_path):
    """The networks compute in it, the solver does not."""
    full = run(options)
    half = run(replace(options, output=str(tmp_path / "half"), precision="bf16"))
    difference = np.abs(pixels(full, 5) - pixels(half, 5))
    assert 0 < difference.max() < 24 and difference.mean() < 3
    assert {entry["precision"] for entry in manifest(half)} == {"bf16"}
    assert "precision" not in json.loads((full / "options.json").read_text())


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"compile": True}])
def test_a_folder_is_not_completed_in_another_precision(changes, options, monkeypatch):
    monkeypatch.setattr(UNet2DModel, "compile", lambda network: None)
    folder = run(options)
    (folder / "000004.png").unlink()
    with pytest.raises(UserError, match=rf"drawn with other options \({next(iter(changes))} differ\)"):
        run(replace(options, **changes))
    run(replace(options, precision="float32"))  # which auto is on a CPU
    assert len(manifest(folder)) == 5


def test_fp16_is_refused_on_a_cpu(options):
    with pytest.raises(UserError, match="--precision fp16 needs a GPU: choose float32 or bf16"):
        run(replace(options, precision="fp16"))
    assert not Path(options.output).exists()


def test_every_network_has_the_precision_and_is_compiled(options, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    save_classifier(tiny_classifier(in_channels=3), CosineScheduler().to_stock(), tmp_path / "judge")
    save_pipeline(tiny_pipeline(channels=3), tmp_path / "worse")
    guided = replace(options, classifier=str(tmp_path / "judge"), guidance_model=str(tmp_path / "worse"))
    plan = make_plan(replace(guided, precision="bf16"))
    assert not compiled
    plan = make_plan(replace(guided, compile=True, precision="bf16"))
    arguments = plan.guidance.arguments
    assert compiled == [plan.pipeline.unet, arguments["guidance_unet"], arguments["classifier"]]
    assert {network.dtype for network in compiled} == {torch.bfloat16}
    entry = manifest(run(replace(options, compile=True)))[0]
    assert entry["compile"] is True and "precision" not in entry


@pytest.mark.slow
def test_compiled_networks_draw_the_same_images(options, tmp_path):
    """Of a class, and of a mixture, whose embedding is added to the compiled network's table for a while."""
    options = replace(options, num_images=2, labels="ant,0.5*ant+0.5*bee")
    eager = pixels(run(options), 2)
    compiled = pixels(run(replace(options, compile=True, output=str(tmp_path / "compiled"))), 2)
    assert np.abs(eager - compiled).max() <= 1


def test_float32_is_not_rounded_to_tf32_while_images_are_drawn(model):
    pipeline = load_pipeline(model)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen: list[tuple[bool, bool]] = []
    pipeline.unet.register_forward_hook(lambda *_: seen.append((matmul.allow_tf32, cudnn.allow_tf32)))
    with float32_products(tf32=True):  # as a training run may have it
        draw(pipeline, [0], seed=0, labels=[0], guidance_scale=1, steps=2, batch_size=1)
        assert matmul.allow_tf32 and cudnn.allow_tf32
    assert seen == [(False, False)] * 2
