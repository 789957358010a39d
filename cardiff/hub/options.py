"""The options of publish.py; they import no torch, so that --help is fast."""

from dataclasses import dataclass
from typing import Literal

from cardiff.config.sections import HubTarget


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
