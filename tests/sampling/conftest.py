"""Model folders to draw from."""

import pytest
from diffusers import DDPMPipeline

from cardiff.hub.serialization import save_pipeline
from cardiff.sampling.options import SampleOptions
from cardiff.schedulers import CosineScheduler
from tests.support.sampled import STEPS
from tests.support.tiny_models import tiny_pipeline, tiny_unet


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A conditional model of the classes ant, bee and "cat, black"."""
    folder = tmp_path_factory.mktemp("sampling") / "conditional"
    save_pipeline(tiny_pipeline(channels=3), folder)
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling") / "unconditional"
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), folder)
    return folder


@pytest.fixture
def options(model, tmp_path):
    return SampleOptions(str(model), output=str(tmp_path / "out"), num_images=5, steps=STEPS, batch_size=2)


@pytest.fixture(scope="module")
def unclipped(tmp_path_factory):
    """A model of which guidance without measure overflows."""
    folder = tmp_path_factory.mktemp("sampling") / "unclipped"
    save_pipeline(tiny_pipeline(CosineScheduler(prediction_type="v_prediction", clip_sample=False).to_stock()), folder)
    return folder
