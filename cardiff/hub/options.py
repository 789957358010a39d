"""The options of publish.py; importing them needs no torch, so that --help is quick."""

from dataclasses import dataclass

from cardiff.config.sections import HubTarget


@dataclass(kw_only=True)
class PublishOptions(HubTarget):
    """Publish a trained model on the Hub, with its card and samples."""

    model: str
    """Output folder of a run, one of its checkpoints, its best/, or a Hub repository."""
    metrics: str | None = None
    """Report folder of evaluate.py, or its metrics.json, made with this very model."""
    samples: str | None = None
    """Picture for the card (default: the run's newest sample grid)."""
    variants: str = ""
    """Weights in half precision beside the float32 ones: fp16, bf16 or both with a comma."""
    output: str | None = None
    """Write what would be uploaded into this folder, and upload nothing."""
