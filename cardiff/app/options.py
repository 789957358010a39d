"""The options of app.py; importing them needs neither torch nor gradio, so that --help is quick."""

from dataclasses import dataclass, field

from cardiff.config.limits import limited
from cardiff.config.types import Names

SHIPPED, SHIPPED_CLASSIFIER = ("cars_32", "cars_32_unconditional"), "cars_32_classifier"


@dataclass(kw_only=True)
class AppOptions:
    """Show models in a browser: draw, watch, compare, and see what noise schedules do."""

    model: Names = field(default_factory=lambda: Names(SHIPPED))
    """Output folders of runs, Hub repositories or names of shipped models, comma-separated. Nothing else can be opened
    in the app."""
    classifier: str | None = None
    """Output folder of train_classifier.py, or a Hub repository, for classifier guidance (default: the shipped one,
    for the shipped models)."""
    host: str = "127.0.0.1"
    """Address to listen on. By default only this machine can connect; 0.0.0.0 lets in everyone who can reach it."""
    port: int = limited(7860, least=0)
    """Port to listen on; 0 for any that is free."""
    max_images: int = limited(100, least=1)
    """Most images of one picture."""
    max_steps: int = limited(250, least=1)
    """Most solver steps."""
    queue: int = limited(40, least=1)
    """Most visitors who wait; further ones are told to come again."""
