"""Small models, and an app that shows them."""

import os
import signal

import pytest
from diffusers import DDPMPipeline

from cardiff.app.options import AppOptions
from cardiff.hub.serialization import save_pipeline
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_models import tiny_pipeline, tiny_unet

MAKES = ("Aston Martin V8 Vantage", "Bentley Continental Supersports Conv.", "Ram C/V Cargo Van", "AM General Hummer")
BODIES = ("Convertible", "Coupe", "SUV Crew Cab", "Minivan", "Sedan", "Hatchback", "Extended Cab")
CARS = [f"{make} {body} {year}" for make in MAKES for body in BODIES for year in range(2006, 2013)]
"""196 names as those of Stanford Cars: long, with spaces, a slash and a point."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of the classes ant, bee and "cat, black", one without classes, and one of 196 cars."""
    folder = tmp_path_factory.mktemp("app")
    save_pipeline(tiny_pipeline(channels=3), folder / "labelled")
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), folder / "plain")
    save_pipeline(tiny_pipeline(id2label=dict(enumerate(CARS)), channels=3), folder / "cars")
    return [str(folder / "labelled"), str(folder / "plain"), str(folder / "cars")]


@pytest.fixture(scope="module")
def site(models, tmp_path_factory):
    """The address of a running app, and its folder."""
    from cardiff.app.build import build_app, launch, limits_of

    folder = tmp_path_factory.mktemp("site")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    options = AppOptions(model=models, port=0, max_images=12, max_steps=60)
    app = build_app(limits_of(options), folder / "visitors")
    app.queue(max_size=options.queue)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _, address, _ = launch(app, options)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    yield address, folder
    app.close()
