"""The model card: what a published model is, how to load it, how it was trained and evaluated, and its limits.

All of it comes from the published folder and from the reports given with it; what they do not record is stated to be
unknown.
"""

import re
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cardiff.diffusion.levels import exact_log_snr
from cardiff.errors import UserError
from cardiff.hub.model_card_facts import FORMATS, Card, metric_name, network_name, reference_name, short_protocol
from cardiff.hub.model_card_sections import SECTIONS
from cardiff.hub.provenance import read_record
from cardiff.hub.serialization import load_classifier, load_pipeline
from cardiff.plotting import BLUE, ORANGE, new_figure


def write_card(
    folder: Path,
    repo_id: str,
    revision: str | None = None,
    license: str | None = None,
    metrics: dict | None = None,
    best: dict | None = None,
) -> None:
    """Write README.md and schedule.png for a model that is about to be published.

    Args:
        folder: The model as it is uploaded, with run.json and samples.png if there are any.
        repo_id: Its repository, OWNER/NAME.
        revision: Branch, if it is not main.
        license: Licence of the weights; that of the model that they started from by default.
        metrics: Content of the metrics.json of evaluate.py for these weights.
        best: Content of evaluation.json, an evaluation of these weights during training.

    Raises:
        UserError: The folder holds no model, or run.json or a report is damaged.
    """
    run = read_record(folder)
    if (folder / "model_index.json").is_file():
        pipeline = load_pipeline(folder)
        network, scheduler, names = pipeline.unet, pipeline.scheduler, list(pipeline.id2label.values())
    else:
        network, scheduler = load_classifier(folder)
        names = list(network.id2label.values())
    card = Card(folder, repo_id, revision, license, metrics, best, run, network, scheduler, names)
    _draw_schedule(scheduler, folder / "schedule.png")
    try:
        text = "\n\n".join("\n".join(section(card)) for section in SECTIONS)
        metadata = _metadata(card).to_yaml()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"run.json or a report is damaged or was not written by this project, so no card can be made ({error!r})."
        ) from error
    ModelCard(f"---\n{metadata}\n---\n\n{text}\n").save(folder / "README.md")


def _metadata(card: Card) -> ModelCardData:
    generates = card.kind != "classifier"
    tags = ["diffusers", "pytorch", "pixel-diffusion", *(["ddpm"] if generates else ["classifier-guidance"])]
    tags += ["class-conditional", "classifier-free-guidance"] if card.kind == "conditional" else []
    results = _results(card)
    path = card.data.get("path", "")
    named = path not in FORMATS and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path, re.ASCII)
    return ModelCardData(
        license=card.license or card.base_license,
        base_model=card.base_repository,
        **({"base_model_relation": "finetune"} if card.base_repository else {}),
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if generates else "image-classification",
        tags=tags,
        datasets=[path] if named and "/" in path else None,
        model_name=card.repo_id.split("/")[-1],
        eval_results=results or None,
    )


def _results(card: Card) -> list[EvalResult]:
    """The metrics as the Hub lists them, with the protocol in their arguments."""
    if card.metrics is None:
        return []
    reference = card.metrics["protocol"]["reference"]["data"]
    protocol = short_protocol(card.metrics)
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=reference_name(reference),
            dataset_name=reference_name(reference),
            dataset_split=reference["split"],
            metric_type=_metric_type(card.metrics, name),
            metric_name=f"{metric_name(card.metrics, name)}, {network_name(card.metrics['protocol'])}",
            metric_value=found["value"],
            metric_args=protocol,
        )
        for name, found in card.metrics["metrics"].items()
    ]


def _metric_type(metrics: dict, name: str) -> str:
    """The Hub's identifier: `fid` only with the network of the FID, since other networks give other values."""
    return name if metrics["protocol"]["distance"] == "FID" else metric_name(metrics, name).lower().replace(" ", "-")


def _draw_schedule(scheduler: DDPMScheduler, path: Path) -> None:
    """Plot the weights of image and noise, and log-SNR, over the timesteps."""
    alphas_cumprod = scheduler.alphas_cumprod.double()
    log_snr = exact_log_snr(alphas_cumprod)
    figure = new_figure(8, 3)
    left, right = figure.subplots(1, 2)
    left.plot(alphas_cumprod.sqrt(), label="image, √ᾱ", color=BLUE)
    left.plot((1 - alphas_cumprod).sqrt(), label="noise, √(1−ᾱ)", color=ORANGE)
    left.set(xlabel="timestep", ylim=(0, 1.02), title="Shares in x_t")
    left.legend()
    right.plot(torch.where(log_snr.isfinite(), log_snr, torch.nan), color="black")
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xlabel="timestep", title="log-SNR (nats)")
    figure.savefig(path, dpi=120)
