"""The sections of a model card, each a list of lines of Markdown.

Names of classes come from data and are escaped, since a card is Markdown that others read.
"""

import json

import yaml

from cardiff.diffusion.levels import exact_log_snr
from cardiff.evaluation.reports.wording import EXPLAINED, interval, number
from cardiff.hub.model_card_facts import Card, metric_name, network_name, reference_name, short_protocol
from cardiff.hub.serialization import VARIANTS, variant_name
from cardiff.markup import code, escape, fenced

PROJECT = "Cardiff, a project for training, measuring and publishing class-conditional pixel diffusion models"
SHOWN_CLASSES = 60
SMALL = 10_000
"""Training images below which copying is a risk worth a warning."""


def _what(card: Card) -> list[str]:
    config = card.network.config
    size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    parameters = sum(parameter.numel() for parameter in card.network.parameters())
    colours = {1: "grey", 3: "RGB"}.get(config.in_channels, f"{config.in_channels}-channel")
    images = f"{size}×{size} {colours} images"
    what = {
        "conditional": f"A diffusion model that draws {images} of {len(card.class_names)} classes, with "
        "classifier-free guidance",
        "unconditional": f"A diffusion model that draws {images}, without labels",
        "classifier": f"A classifier of {images} at any noise level, {len(card.class_names)} classes, by whose "
        "gradient a diffusion model with the same noise schedule can be guided",
    }[card.kind]
    lines = [f"# {card.repo_id.split('/')[-1]}", ""]
    if (card.folder / "samples.png").is_file():
        lines += ["![Samples](samples.png)" if card.kind != "classifier" else "![Accuracy](samples.png)", ""]
    lines.append(
        f"{what}: {parameters:,} parameters, trained on {escape(card.data_set)} with {PROJECT}. It "
        f"works on pixels, without an autoencoder."
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
            "`classifier/noisy_classifier.py`, which needs torch and diffusers. A "
            "conditional or unconditional pipeline of the same schedule and classes is guided by "
            "`pipeline(…, classifier=classifier, classifier_scale=1.0)`."
        )
    elif card.kind == "unconditional":
        example = f"""import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained({repo})
generator = torch.Generator().manual_seed(0)
images = pipeline(batch_size=4, generator=generator, num_inference_steps=100).images
images[0].save("sample.png")"""
        after = "This is a stock pipeline of diffusers: nothing of the repository is executed."
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
            "diffusers; what `save_pretrained` then writes loads in the same way. The parts are diffusers' own and "
            f"load without trust: `{parts}` and likewise `DDPMScheduler` from `scheduler`; the last of the class "
            f"embeddings stands for no label. `python sample.py --model {card.repo_id}` of the project executes "
            "nothing of this repository."
        )
    lines = ["## Load and sample", "", "```python", example, "```", "", after]
    part = "classifier" if card.kind == "classifier" else "unet"
    for name, dtype in VARIANTS.items():
        if (card.folder / part / variant_name(name)).is_file():
            lines += [
                "",
                f"In half the memory: `from_pretrained(…, variant={json.dumps(name)}, torch_dtype={dtype})`.",
            ]
    return lines


def _data(card: Card) -> list[str]:
    lines = ["## Data and licence", ""]
    if card.run:
        data, count = card.data, card.run.get("images")
        square = {"crop": "cut to their middle", "pad": "padded to a square", "stretch": "stretched to a square"}
        many = "images of a stream, which were not counted," if count is None else f"{count:,} images,"
        flips = ", each mirrored half of the time" if data.get("horizontal_flip") else ""
        lines.append(
            f"{escape(card.data_set)}, split {escape(data['split'])}: {many} {square[data['fit']]} and resized to "
            f"{data['resolution']:d} pixels{flips}."
        )
    else:
        lines.append("The folder does not record what the model was trained on.")
    images = card.data.get("license")
    return [
        *lines,
        "",
        f"- Licence of the images: {escape(images) if images else 'not stated'}.",
        f"- Licence of the weights: {escape(card.license) if card.license else 'not stated'}.",
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
        lines.append("The folder does not record the schedule's name; its betas are in `scheduler/`.")
    last = f"{log_snr[-1]:.2f}" if log_snr[-1].isfinite() else "−∞ (pure noise)"
    solvers = ""
    if card.kind != "classifier":
        names = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler"]
        names += ["EulerDiscreteScheduler"] if config.prediction_type != "sample" else []
        solvers = f" {', '.join(map(code, names))}, made from it by `from_config`, have the same noise levels."
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
        return ["## Training", "", "The folder does not record how the model was trained."]
    run, train = card.run, card.run["config"]["train"]
    seconds = run.get("seconds")
    precision = "float32" if run["precision"] == "no" else run["precision"]
    time = "a time that was not recorded" if seconds is None else _duration(seconds)
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    name = card.repo_id.split("/")[-1]
    averaged = (
        f"The weights are averages with a decay of up to {train['ema_decay']:g}." if "ema_decay" in train else ""
    )
    return [
        "## Training",
        "",
        f"{run['step']:,} optimizer steps of {train['batch_size']} images, {run['images_seen']:,} images in all, in "
        f"{time} on {run['processes']:d} × {escape(run['hardware'])}, precision {code(precision)}. {averaged} "
        f"{escape(versions)}.",
        "",
        "```bash",
        f"accelerate launch train_{run['kind']}.py --config config.yaml --output_dir runs/{name}",
        "```",
        "",
        "<details><summary>config.yaml, in which paths are cut to their last part</summary>",
        "",
        *fenced("yaml", yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True).strip()),
        "",
        "</details>",
    ]


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
            f"Measured once while training, of {card.best['images']:,} images drawn in {card.best['steps']} "
            f"DPM-Solver++ steps without guidance: {escape(protocol['distance'])} {number(distance['value'])} "
            f"({interval(distance, 'fid')}) in the features of {escape(network_name(protocol))}.",
        ]
    return [*lines, "Not measured."]


def _measured(metrics: dict) -> list[str]:
    protocol, real = metrics["protocol"], metrics["held_out"]
    reference = protocol["reference"]["data"]
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in short_protocol(metrics).items())
    lines = [
        f"Against {reference['images']:,} images of {escape(reference_name(reference))}, split "
        f"{escape(reference['split'])}, in the features of {escape(network_name(protocol))}. Protocol: {told}.",
        "",
        "| metric | value | 95% interval |" + (" held-out real images |" if real else "") + " what it says |",
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
        return ["Not measured."]
    clean = report["clean"]
    lines = [
        f"On {clean['images']:,} images that were kept from training it reads {clean['accuracy']:.1%} of the clean "
        f"ones; naming the most frequent class always would get {report['chance']:.1%}.",
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
    lines = ["## Limits", "", "- Made for study. There is no filter of any kind."]
    images, counts = (card.run.get("images"), card.run.get("class_counts")) if card.run else (None, None)
    if card.kind == "classifier":
        lines.append(
            "- It knows the noise levels of its own schedule only: guide a model that was trained on the same."
        )
    else:
        if images is not None and images < SMALL:
            lines.append(
                f"- {images:,} training images are few: samples can be near copies, so compare them with their "
                "nearest training images before using them as new."
            )
        if card.kind == "conditional":
            lines.append("- A guidance scale above 1 makes samples more typical of their class and less diverse.")
            lines.append("- It draws the classes above and knows no others, nor anything between them.")
        else:
            lines.append("- What it draws cannot be chosen, and its classes need not be as frequent as in the data.")
    if counts and max(counts) > 2 * min(counts):
        lines.append(
            f"- The classes are unequal, {min(counts)} to {max(counts)} images; rare ones are learnt less well."
        )
    return lines


SECTIONS = (_what, _load, _data, _schedule, _training, _metrics, _memorisation, _classes, _limits)
"""In the order of the card."""
