"""Samples of the averaged weights while training: their precision."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from cardiff.config.run import parse_run
from cardiff.training.build import build
from cardiff.training.samples import Evaluation, draw_averaged


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_they_are_drawn_in_the_precision_of_the_run(precision, dtype, tmp_path, digits_options, monkeypatch):
    """The averaged weights, which are saved, stay as they are."""
    argv = [*digits_options, "--output_dir", str(tmp_path), "--train.max_steps", "1", "--train.batch_size", "4"]
    argv += ["--train.mixed_precision", precision, "--train.evaluate_every", "1", "--train.evaluate_images", "20"]
    argv += ["--train.evaluate_network", "pixels"]
    trainer = build(parse_run(argv, kind="conditional", description=""))
    seen, forward = [], UNet2DModel.forward

    def recorded(network, *arguments, **more):
        output = forward(network, *arguments, **more)
        seen.append(output.sample.dtype)
        return output

    evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))
    with monkeypatch.context() as patch:
        patch.setattr(UNet2DModel, "forward", recorded)
        images = draw_averaged(trainer, evaluation.scheduler, 4, [0, 1, 2, 3], 1.0)
    assert set(seen) == {dtype} and images.dtype == np.uint8
    trainer.step()
    trainer.run_callbacks()
    trainer.finish()
    assert {weight.dtype for weight in trainer.averaged_model().parameters()} == {torch.float32}
    assert json.loads((tmp_path / "best/evaluation.json").read_text())["precision"] == precision
