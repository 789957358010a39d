"""Cardiff: class-conditional pixel diffusion models to study, train, sample, measure and publish.

Train, as `train_conditional.py` does; here a tiny network for two steps:

>>> import cardiff
>>> tiny = {"unet.block_out_channels": [8, 8, 8], "unet.norm_num_groups": 4, "unet.attention_head_dim": 8}
>>> few = {"train.max_steps": 2, "train.sample_every": 0, "train.trackers": []}
>>> config = cardiff.configure("digits_16_conditional", "runs/tiny", **tiny, **few)
>>> run = cardiff.build(config)
Training in float32 on CPU.
>>> while not run.done:
...     run.step()
...     run.run_callbacks()
>>> run.finish()
Trained to step 2; the model is in runs/tiny.
True

Load the trained model, and sample from it with classifier-free guidance:

>>> pipeline = cardiff.load_pipeline("runs/tiny")
>>> pipeline.scheduler = cardiff.make_solver(pipeline.scheduler, "dpm")
>>> how = {"guidance_scale": 2.0, "steps": 5, "batch_size": 4}
>>> images, cost = cardiff.draw(pipeline, range(4), seed=0, labels=[3, 3, 7, 7], **how)
>>> images.shape, images.dtype, cost[0]
((4, 16, 16, 1), dtype('uint8'), {'unet': 10})

A schedule is a diffusers scheduler; its ᾱ decreases with t:

>>> schedule = cardiff.make_schedule({"name": "cosine", "num_train_timesteps": 100})
>>> bool((schedule.alphas_cumprod.diff() < 0).all())
True

Invalid input raises a UserError, with a message of one sentence:

>>> cardiff.make_schedule({"name": "cosin"})
Traceback (most recent call last):
    ...
cardiff.errors.UserError: There is no schedule 'cosin'; did you mean 'cosine'?
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from cardiff.layout import IS_CHECKOUT, CheckoutFinder

__version__ = "0.2.0"

if IS_CHECKOUT and not any(type(finder).__name__ == CheckoutFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, CheckoutFinder())

if TYPE_CHECKING:
    from cardiff.config.run import RunConfig as RunConfig
    from cardiff.config.run import configure as configure
    from cardiff.config.schedule import make_schedule as make_schedule
    from cardiff.config.sections import DataConfig as DataConfig
    from cardiff.data.store import open_store as open_store
    from cardiff.display import show as show
    from cardiff.errors import UserError as UserError
    from cardiff.evaluation.evaluate import run as evaluate  # noqa: F401
    from cardiff.evaluation.options import EvaluateOptions as EvaluateOptions
    from cardiff.hub.options import PublishOptions as PublishOptions
    from cardiff.hub.publish import publish as publish
    from cardiff.hub.serialization import find_model as find_model
    from cardiff.hub.serialization import load_classifier as load_classifier
    from cardiff.hub.serialization import load_pipeline as load_pipeline
    from cardiff.plotting import save_labelled_grid as save_labelled_grid
    from cardiff.sampling.draw import draw as draw
    from cardiff.sampling.options import SampleOptions as SampleOptions
    from cardiff.sampling.sample import run as sample  # noqa: F401
    from cardiff.sampling.solvers import make_solver as make_solver
    from cardiff.training.build import build as build

API = {
    "configure": "config.run.configure",
    "RunConfig": "config.run.RunConfig",
    "DataConfig": "config.sections.DataConfig",
    "open_store": "data.store.open_store",
    "make_schedule": "config.schedule.make_schedule",
    "build": "training.build.build",
    "find_model": "hub.serialization.find_model",
    "load_pipeline": "hub.serialization.load_pipeline",
    "load_classifier": "hub.serialization.load_classifier",
    "make_solver": "sampling.solvers.make_solver",
    "draw": "sampling.draw.draw",
    "SampleOptions": "sampling.options.SampleOptions",
    "sample": "sampling.sample.run",
    "save_labelled_grid": "plotting.save_labelled_grid",
    "EvaluateOptions": "evaluation.options.EvaluateOptions",
    "evaluate": "evaluation.evaluate.run",
    "show": "display.show",
    "PublishOptions": "hub.options.PublishOptions",
    "publish": "hub.publish.publish",
    "UserError": "errors.UserError",
}
"""The public API: names and their modules, which are imported only on first use."""
__all__ = ["API", "__version__", *API]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'cardiff' has no attribute {name!r}")
    module, _, attribute = API[name].rpartition(".")
    return getattr(importlib.import_module(f"cardiff.{module}"), attribute)
