"""The options of publish.py; they import no torch, so that --help is fast."""

from dataclasses import dataclass
from typing import Literal

from cardiff.config.limits import limited
from cardiff.config.sections import HubTarget
from cardiff.config.types import Floats, WithLists


@dataclass(kw_only=True)
class AverageOptions(WithLists):
    """Make models with weight averages of any width from the snapshots of a run."""

    model: str
    """Output folder of a run that was trained with train.ema_widths."""
    width: Floats = limited([0.05, 0.10, 0.15], above=0, most=0.28)
    """Widths: the standard deviation of the average, in parts of the run's length."""
    output: str | None = None
    """Folder in which a folder for each width is written (default: averages/ of the run)."""


@dataclass(kw_only=True)
class PublishOptions(HubTarget):
    """Publish a trained model on the Hub, with its card and samples."""

    model: str
    """Output folder of a run, one of its checkpoints, its best/, or a Hub repository."""
    metrics: str | None = None
    """Report folder of evaluate.py, or its metrics.json, for exactly these weights."""
    samples: str | None = None
    """Image for the model card (default: the run's newest sample grid)."""
    weights: Literal["float32", "fp16", "bf16"] = "float32"
    """Precision of the weights; those in half precision take half of the space, and are loaded as float32."""
    variants: str = ""
    """Half-precision weights to add: fp16, bf16, or fp16,bf16."""
    space: str | None = None
    """Push a Space, NAME or OWNER/NAME, in which visitors draw from the published --model, and no model."""
    output: str | None = None
    """Write what would be uploaded to this folder, and upload nothing."""
