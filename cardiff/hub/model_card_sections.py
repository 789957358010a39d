"""The sections of a model card, each a list of lines of Markdown.

Names of classes come from data and are escaped, since a card is Markdown that others read.
"""

import json
import shlex

import yaml

from cardiff.diffusion.levels import exact_log_snr
from cardiff.evaluation.reports.wording import EXPLAINED, interval, number
from cardiff.hub.model_card_facts import Card, metric_name, network_name, reference_name, short_protocol
from cardiff.hub.serialization import VARIANTS, variant_name
from cardiff.markup import code, escape, fenced

PROJECT = "Cardiff, a project for training, measuring and publishing class-conditional pixel diffusion models"
SHOWN_CLASSES = 60
SMALL = 10_000
"""Training images below which the card warns of copies."""


def _what(card: Card) -> list[str]:
    config = card.network.config
    size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    parameters = sum(parameter.numel() for parameter in card.network.parameters())
    colours = {1: "grey", 3: "RGB"}.get(config.in_channels, f"{config.in_channels}-channel")
    images = f"{size}×{size} {colours} images"
    what = {
        "conditional": f"A diffusion model that generates {images} of {len(card.class_names)} classes, with "
        "classifier-free guidance",
        "unconditional": f"A diffusion model that generates {images}, without labels",
        "classifier": f"A classifier of {images} at any noise level, {len(card.class_names)} classes, whose gradient "
        "guides a diffusion model with the same noise schedule",
    }[card.kind]
    lines = [f"# {card.repo_id.split('/')[-1]}", ""]
    if (card.folder / "samples.png").is_file():
        lines += ["![Samples](samples.png)" if card.kind != "classifier" else "![Accuracy](samples.png)", ""]
    stored = f" in {card.half_precision}" if card.half_precision else ""
    lines.append(
        f"{what}: {parameters:,} parameters{stored}, trained on {escape(card.data_set)} with {PROJECT}. It works on "
        "pixels, without an autoencoder."
    )
    return lines


def _load(card: Card) -> list[str]:
    repo = json.dumps(card.repo_id) + (f", revision={json.dumps(card.revision)}" if card.revision else "")
    if card.kind == "classifier":
        example = f"""import torch
from diffusers import AutoModel

classifier = AutoModel.from_pretrained({repo}, subfolder="classifier", trust_remote_code=True)
images = torch.zeros(1, {card.network.config.in_channels}, *[{card.network.config.sample_size}] * 2)  # in [-1, 1], \
noised to a timestep
logits = classifier(images, torch.tensor([0]))
print(classifier.config.id2label[str(logits.argmax().item())])"""
        after = (
            "This is the `AutoModel` of diffusers, not that of transformers. `trust_remote_code` runs one file, "
            "`classifier/noisy_classifier.py`, which needs torch and diffusers. To guide a conditional or "
            "unconditional pipeline with the same schedule and classes, call "
            "`pipeline(…, classifier=classifier, classifier_scale=1.0)`."
        )
    elif card.kind == "unconditional":
        example = f"""import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained({repo})
generator = torch.Generator().manual_seed(0)
images = pipeline(batch_size=4, generator=generator, num_inference_steps=100).images
images[0].save("sample.png")"""
        after = "This is a stock pipeline of diffusers: no code from the repository is executed."
    else:
        name = card.class_names[0]
        label = 0 if "`" in name else json.dumps(name, ensure_ascii=False)  # which could end the block of code
        example = f"""import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({repo}, trust_remote_code=True)
generator = torch.Generator().manual_seed(0)
images = pipeline(class_labels=[{label}], guidance_scale=2.0, num_inference_steps=50, generator=generator).images
images[0].save("sample.png")"""
        parts = f'UNet2DModel.from_pretrained({repo}, subfolder="unet")'
        after = (
            "`trust_remote_code` runs one file, `pipeline_class_conditional.py`, which needs torch, numpy and "
            "diffusers; what `save_pretrained` then writes loads in the same way. The parts are classes of diffusers "
            f"and load without `trust_remote_code`: `{parts}`, and `DDPMScheduler` from `scheduler`; the last class "
            f"embedding means no label. Cardiff's own `python sample.py --model {card.repo_id}` executes no code from "
            "this repository."
        )
    lines = ["## Load and sample", "", "```python", example, "```", "", after]
    part = "classifier" if card.kind == "classifier" else "unet"
    for name, dtype in VARIANTS.items():
        if (card.folder / part / variant_name(name)).is_file():
            lines += [
                "",
                f"In half precision: `from_pretrained(…, variant={json.dumps(name)}, torch_dtype={dtype})`.",
            ]
    return lines


def _data(card: Card) -> list[str]:
    lines = ["## Data and licence", ""]
    if card.run:
        data, count = card.data, card.run.get("images")
        square = {"crop": "centre-cropped", "pad": "padded to a square", "stretch": "stretched to a square"}
        many = "images of a stream (not counted)," if count is None else f"{count:,} images,"
        flips = ", each flipped horizontally with probability 1/2" if data.get("horizontal_flip") else ""
        lines.append(
            f"{escape(card.data_set)}, split {escape(data['split'])}: {many} {square[data['fit']]} and resized to "
            f"{data['resolution']:d} pixels{flips}."
        )
    else:
        lines.append("The training data is not recorded.")
    images = card.data.get("license")
    weights = escape(card.license) if card.license else "not stated"
    if not card.license and card.base_license:
        weights = f"{escape(card.base_license)}, that of the model that they started from"
    return [
        *lines,
        "",
        f"- Licence of the images: {escape(images) if images else 'not stated'}.",
        f"- Licence of the weights: {weights}.",
    ]


def _schedule(card: Card) -> list[str]:
    log_snr = exact_log_snr(card.scheduler.alphas_cumprod)
    config = card.scheduler.config
    lines = ["## Noise schedule", ""]
    if card.run:
        section = card.run["config"]["scheduler"]
        given = {key: value for key, value in section.items() if key != "name"}
        shown = ", ".join(f"{code(key)} {_short(value)}" for key, value in given.items())
        lines.append(f"**{escape(str(section['name']))}**: {shown}.")
    else:
        lines.append("The schedule's name is not recorded; its betas are in `scheduler/`.")
    last = f"{log_snr[-1]:.2f}" if log_snr[-1].isfinite() else "−∞ (pure noise)"
    solvers = ""
    if card.kind != "classifier":
        names = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler"]
        names += ["EulerDiscreteScheduler"] if config.prediction_type != "sample" else []
        solvers = f" {', '.join(map(code, names))}, created from it with `from_config`, have the same noise levels."
    return [
        *lines,
        "",
        f"Log-SNR falls from {log_snr[0]:.2f} to {last} in {config.num_train_timesteps} steps; the network predicts "
        f"{code(config.prediction_type)}. It loads as a stock `DDPMScheduler` with its betas.{solvers}",
        "",
        "![Signal and noise, and log-SNR, over the timesteps](schedule.png)",
    ]


def _short(value: object) -> str:
    text = json.dumps(value)
    return escape(text if len(text) <= 60 else text[:57] + "…")


def _training(card: Card) -> list[str]:
    if not card.run:
        return ["## Training", "", "The training is not recorded."]
    run, train = card.run, card.run["config"]["train"]
    seconds = run.get("seconds")
    precision = "float32" if run["precision"] == "no" else run["precision"]
    time = "an unknown time" if seconds is None else _duration(seconds)
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    name = card.repo_id.split("/")[-1]
    start = f" --init_from {shlex.quote(card.base['name'] or '')}" if card.base else ""
    averaged = (
        f"The weights are averages with a decay of up to {train['ema_decay']:g}." if "ema_decay" in train else ""
    )
    return [
        "## Training",
        "",
        f"{run['step']:,} optimizer steps of {train['batch_size']} images, {run['images_seen']:,} images in all, in "
        f"{time} on {run['processes']:d} × {escape(run['hardware'])}, precision {code(precision)}. {averaged} "
        f"{escape(versions)}.",
        *_start(card),
        "",
        "```bash",
        f"accelerate launch train_{run['kind']}.py --config config.yaml --output_dir runs/{name}{start}",
        "```",
        "",
        "<details><summary>config.yaml (of a path, the last part)</summary>",
        "",
        *fenced("yaml", yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True).strip()),
        "",
        "</details>",
    ]


def _start(card: Card) -> list[str]:
    """What the weights were before the training, if they were not random."""
    if not card.base:
        return []
    revision, license = card.base.get("revision"), card.base_license
    which = f" (revision {code(revision)})" if revision else ""
    terms = f"licence {escape(license)}" if license else "whose licence is not stated"
    return ["", f"It started from the weights of {escape(card.base['name'] or 'a model')}{which}, {terms}."]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _metrics(card: Card) -> list[str]:
    lines = ["## Metrics", ""]
    if card.kind == "classifier":
        return [*lines, *_report(card)]
    if card.metrics is not None:
        return [*lines, *_measured(card.metrics)]
    if card.best is not None:
        distance, protocol = card.best["distance"], card.best["protocol"]
        return [
            *lines,
            f"Measured once during training, on {card.best['images']:,} images sampled in {card.best['steps']} "
            f"DPM-Solver++ steps without guidance: {escape(protocol['distance'])} {number(distance['value'])} "
            f"({interval(distance, 'fid')}) in the features of {escape(network_name(protocol))}.",
        ]
    return [*lines, "Not evaluated."]


def _measured(metrics: dict) -> list[str]:
    protocol, real = metrics["protocol"], metrics["held_out"]
    reference = protocol["reference"]["data"]
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in short_protocol(metrics).items())
    lines = [
        f"Against {reference['images']:,} images of {escape(reference_name(reference))}, split "
        f"{escape(reference['split'])}, in the features of {escape(network_name(protocol))}. Protocol: {told}.",
        "",
        "| metric | value | 95% interval |" + (" held-out real images |" if real else "") + " what it measures |",
        "|---|---|---|" + ("---|" if real else "") + "---|",
    ]
    for name, found in metrics["metrics"].items():
        cells = [escape(metric_name(metrics, name)), number(found["value"]), interval(found, name)]
        if real:
            cells.append(number(real[name]["value"]) if name in real else "")
        lines.append(f"| {' | '.join([*cells, EXPLAINED[name]])} |")
    return lines


def _report(card: Card) -> list[str]:
    report = card.run.get("report") if card.run else None
    if not report:
        return ["Not evaluated."]
    clean = report["clean"]
    lines = [
        f"Accuracy on {clean['images']:,} clean images that were held out from training: {clean['accuracy']:.1%}; "
        f"always predicting the most frequent class: {report['chance']:.1%}.",
        "",
        "| log-SNR | accuracy | cross-entropy |",
        "|---|---|---|",
    ]
    rows = report["levels"]
    return lines + [f"| {r['log_snr']:.1f} | {r['accuracy']:.1%} | {r['cross_entropy']:.3f} |" for r in rows]


def _memorisation(card: Card) -> list[str]:
    if card.kind == "classifier":
        return []
    found = (card.metrics or {}).get("memorisation")
    unknown = "Memorisation was not evaluated."
    return ["## Memorisation", "", found["sentence"] if found else unknown]


def _classes(card: Card) -> list[str]:
    if not card.class_names:
        return []
    counts = card.run.get("class_counts") if card.run else None
    head = ["| index | class |" + (" images |" if counts else ""), "|---|---|" + ("---|" if counts else "")]
    columns = [f" {count:d} |" for count in counts] if counts else [""] * len(card.class_names)
    named = enumerate(zip(card.class_names, columns, strict=True))
    rows = [f"| {i} | {escape(name)} |{images}" for i, (name, images) in named]
    lines = ["## Classes", ""]
    if len(rows) <= SHOWN_CLASSES:
        return [*lines, *head, *rows]
    return [*lines, f"<details><summary>{len(rows)} classes</summary>", "", *head, *rows, "", "</details>"]


def _limits(card: Card) -> list[str]:
    lines = ["## Limits", "", "- Made for study; there is no content filter."]
    images, counts = (card.run.get("images"), card.run.get("class_counts")) if card.run else (None, None)
    if card.kind == "classifier":
        lines.append(
            "- It was trained on the noise levels of its own schedule: guide only models with the same schedule."
        )
    else:
        if images is not None and images < SMALL:
            lines.append(
                f"- With only {images:,} training images, samples can be near copies of them: compare samples with "
                "their nearest training images before using them as new."
            )
        if card.kind == "conditional":
            lines.append("- A guidance scale above 1 makes samples more typical of their class and less diverse.")
            lines.append("- It generates only the classes above.")
        else:
            lines.append("- Classes cannot be chosen, and their frequencies can differ from those in the data.")
    if counts and max(counts) > 2 * min(counts):
        lines.append(
            f"- The classes are imbalanced, {min(counts)} to {max(counts)} images; rare ones are learnt less well."
        )
    return lines


SECTIONS = (_what, _load, _data, _schedule, _training, _metrics, _memorisation, _classes, _limits)
"""In the order of the card."""
