"""Drawing images from a trained pipeline: batches that do not matter, folders that can be continued."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from cardiff.config.limits import check_limits, limited
from cardiff.config.schedules_by_name import alphas_cumprod_of, section_of
from cardiff.diffusion.levels import log_snr_of, timesteps_at, visited_levels
from cardiff.diffusion.randomness import image_generator, image_seed
from cardiff.distributed import gather_dict, print_once, this_process
from cardiff.errors import UserError, user_errors
from cardiff.files import ASIDE, file_hash, write_text, written_aside
from cardiff.hub.serialization import find_model, load_pipeline, weights_file
from cardiff.pipelines import ArgumentError, ClassConditionalPipeline, NonFiniteImages
from cardiff.plotting import save_labelled_grid
from cardiff.sampling.guidance import Guidance, GuidanceOptions, make_guidance
from cardiff.sampling.labels import read_labels
from cardiff.sampling.solvers import make_solver

_PNG_KEY = "cardiff"


def draw_images(pipeline: ClassConditionalPipeline, indices: Sequence[int], **settings) -> np.ndarray:
    """Images number `indices` of the series that a seed starts, as uint8 (B, H, W, C); `settings` as in `draw`."""
    return draw(pipeline, indices, **settings)[0]


@torch.no_grad()
def draw(
    pipeline: ClassConditionalPipeline,
    indices: Sequence[int],
    *,
    seed: int,
    labels: Sequence[int | dict] | None,
    guidance_scale,
    steps: int,
    batch_size: int,
    timesteps: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda count: None,
    **guidance,
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Images number `indices` of the series that `seed` starts, and what they cost.

    Each image has its own generator, so it depends on (model, seed, index, label and options) and not on its batch.

    Args:
        labels: Class of each image, or None to sample without labels.
        guidance_scale: As the pipeline takes it.
        batch_size: Images in one pass.
        timesteps: The noise levels to step through, falling, instead of `steps` evenly spaced ones.
        progress: Called with the number of images after each pass.
        guidance: The pipeline's other guidance arguments.

    Returns:
        uint8 (B, H, W, C), and for each image how often each network was evaluated.

    Raises:
        UserError: Images came out as NaN or infinity; it names their numbers in the series.
    """
    pipeline.set_progress_bar_config(disable=True)
    drawn, cost = [], []
    for first in range(0, len(indices), batch_size):
        batch = slice(first, first + batch_size)
        numbers = [int(index) for index in indices[batch]]
        try:
            with user_errors(ArgumentError):
                result = pipeline(
                    class_labels=None if labels is None else list(labels[batch]),
                    batch_size=len(numbers),
                    guidance_scale=guidance_scale,
                    num_inference_steps=steps,
                    timesteps=timesteps,
                    generator=[image_generator(seed, number) for number in numbers],
                    output_type="pt",
                    **guidance,
                )
        except NonFiniteImages as error:
            raise UserError(str(NonFiniteImages([numbers[place] for place in error.numbers]))) from error
        drawn.append(to_uint8(result.images))
        cost += [dict(zip(result.evaluations, counts)) for counts in zip(*result.evaluations.values())]
        progress(len(result.images))
    return np.concatenate(drawn) if drawn else np.empty(0, np.uint8), cost


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [0, 1] to uint8 (B, H, W, C)."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(kw_only=True)
class DrawOptions(GuidanceOptions):
    """How images are drawn from a model, whatever becomes of them."""

    solver: str = "dpm"
    """ddpm, ddim, dpm (DPM-Solver++), unipc or euler."""
    steps: int = limited(25, least=1)
    """Solver steps."""
    timesteps_from: str | None = None
    """Visit the noise levels of another schedule: a name, a YAML file with a scheduler section or FILE.py:FUNCTION."""
    batch_size: int = limited(64, least=1)
    """Images per batch of each process."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""


@dataclass
class SampleOptions(DrawOptions):
    """Draw images from a trained model into a folder or a labelled grid."""

    model: str
    """Output folder of a run, one of its checkpoints, or a Hub repository."""
    output: str | None = None
    """Folder for the images and manifest.jsonl; an interrupted one goes on where it was."""
    grid: str | None = None
    """Draw a labelled grid into this PNG file instead: a row a class, a column block a guidance scale."""
    labels: str | list[int] | None = None
    """Classes by name or index with commas between, taken in turn: seven,0,3. Double quotes make a name of anything,
    "a, b"; index:3 is always the index; 0.5*three+0.5*eight is a mixture of classes; @FILE has a label on each line.
    All classes by default."""
    num_images: int | None = limited(None, least=1)
    """Number of images (default: 8 for each class and scale); in a grid, for each scale."""
    seed: int = limited(0, least=0)
    """Image i depends on the seed and i, whatever the batch size and the number of processes."""


def run(options: SampleOptions, progress: Callable[[int], object] | None = None) -> Path:
    """Carry the options out and return the folder or file that was made.

    Args:
        options: What to draw, and where to.
        progress: Called with the number of this process's images after each pass, in the place of a progress bar.

    Raises:
        UserError: An option that does not fit the model, or an output folder of other options.
    """
    plan = make_plan(options, progress)
    state = this_process()
    if plan.timesteps is not None and len(plan.timesteps) < options.steps:
        print_once(
            f"{options.steps} steps of {options.timesteps_from} fall on {len(plan.timesteps)} timesteps of the model: "
            "so many steps are taken."
        )
    return _draw_grid(plan, state) if options.grid is not None else _fill_folder(plan, state)


def make_plan(options: SampleOptions, progress: Callable[[int], object] | None = None) -> "Plan":
    """Load the model and all that the options name, and check that they fit; arguments as of `run`.

    Raises:
        UserError: An option that does not fit the model.
    """
    state = this_process()
    if (options.output is None) == (options.grid is None):
        raise UserError("Give either --output DIR for single images or --grid FILE for a labelled grid.")
    check_limits(options, "--")
    with state.main_process_first():
        folder = find_model(options.model, options.revision)
    pipeline = load_pipeline(folder).to(state.device)
    pipeline.scheduler = make_solver(pipeline.scheduler, options.solver)
    timesteps, total = None, pipeline.scheduler.config.num_train_timesteps
    if options.steps > total:
        raise UserError(f"--steps is {options.steps}, but the model has {total} timesteps: give 1 to {total}.")
    if options.timesteps_from is not None:
        levels = log_snr_of(alphas_cumprod_of(section_of(options.timesteps_from)))
        timesteps = timesteps_at(pipeline.scheduler, visited_levels(levels, options.steps))
    with user_errors(ArgumentError):  # before anything is written
        pipeline.set_timesteps(options.steps, timesteps=timesteps)
    with state.main_process_first():
        guidance = make_guidance(options, pipeline)
    labels = _labels(pipeline, guidance.arguments.get("classifier"), options.labels)
    with user_errors(ArgumentError):
        pipeline.check(labels, **guidance.arguments)
    return Plan(folder, pipeline, options, labels, guidance, timesteps, progress)


@dataclass
class Plan:
    """What is to be drawn, and with what."""

    folder: Path
    """Of the model."""
    pipeline: ClassConditionalPipeline
    options: SampleOptions
    labels: list[int | dict] | None
    guidance: Guidance
    timesteps: list[int] | None
    progress: Callable[[int], object] | None
    """Told of each pass in the place of a progress bar."""

    @property
    def class_names(self) -> dict[int, str]:
        """The model's classes, or the classifier's."""
        return self.pipeline.class_names(self.guidance.arguments.get("classifier"))

    def draw(self, indices, labels, variant, progress=lambda count: None) -> tuple[np.ndarray, list[dict]]:
        """Images of these labels with the scales of one variant, and their cost."""
        options = self.options
        settings = {"seed": options.seed, "steps": options.steps, "batch_size": options.batch_size}
        settings |= {"timesteps": self.timesteps, "progress": progress}
        return draw(self.pipeline, indices, labels=labels, **settings, **variant, **self.guidance.arguments)

    @contextmanager
    def counting(self, total: int, state: PartialState) -> Iterator[Callable[[int], object]]:
        """What to call with the number of images after each pass."""
        if self.progress is not None:
            yield self.progress
        else:
            with tqdm(total=total, desc="images", unit="img", disable=not state.is_main_process) as bar:
                yield bar.update


def _draw_grid(plan: Plan, state: PartialState) -> Path:
    options, variants, labels = plan.options, plan.guidance.variants, plan.labels
    if labels is not None:
        columns = max(1, (options.num_images or 8 * len(labels)) // len(labels))
        names, count = [label_name(label, plan.class_names) for label in labels], len(labels) * columns
    else:  # about a square
        count = options.num_images or 8
        columns = math.ceil(math.sqrt(count))
        names = [""] * math.ceil(count / columns)
    mine = [i for batch in _batches(count, options, state) for i in batch]
    chosen = None if labels is None else [labels[i // columns] for i in mine]
    blocks = []
    with plan.counting(len(mine) * len(variants), state) as progress:
        for variant in variants:
            images, _ = plan.draw(mine, chosen, variant, progress)
            blocks.append([image for _, image in sorted(gather_dict(dict(zip(mine, images))).items())])
    path = Path(options.grid)
    if state.is_main_process:
        drawn = np.stack(blocks)  # (blocks, images, H, W, C)
        whole = np.full((len(blocks), len(names) * columns, *drawn.shape[2:]), 255, np.uint8)  # the last row in white
        whole[:, :count] = drawn
        save_labelled_grid(whole, names, plan.guidance.titles, path)
    return path


def _fill_folder(plan: Plan, state: PartialState) -> Path:
    options, variants, labels = plan.options, plan.guidance.variants, plan.labels
    output = Path(options.output)
    turns = len(labels or [None]) * len(variants)
    count = options.num_images or 8 * turns
    identity = {
        "weights_sha256": file_hash(weights_file(plan.folder)),
        "labels": labels,
        **{name: values[0] if len(variants) == 1 else values for name, values in plan.guidance.numbers.items()},
        "solver": options.solver,
        "steps": options.steps,
        "seed": options.seed,
        **plan.guidance.record,
    }
    if plan.timesteps is not None:
        identity["timesteps"] = plan.timesteps
    identity = json.loads(json.dumps(identity))  # as it will be read
    if state.is_main_process:
        _claim_folder(output, identity)
    state.wait_for_everyone()

    mine = _batches(count, options, state)
    with plan.counting(sum(map(len, mine)), state) as progress:
        for batch in mine:
            if not all(image_file(output, i).exists() for i in batch):
                _draw_batch(plan, batch, identity, output)
            progress(len(batch))
    state.wait_for_everyone()
    if state.is_main_process:
        entries = [read_entry(image_file(output, i)) for i in range(count)]
        write_text(output / "manifest.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in entries), per_process=True)
    state.wait_for_everyone()  # who reads the folder next needs the manifest
    return output


def _draw_batch(plan: Plan, batch: range, identity: dict, output: Path) -> None:
    """Draw and write a batch. All labels are drawn with the first variant, then all with the next, and so on."""
    labels, variants = plan.labels or [None], plan.guidance.variants
    chosen = [labels[i % len(labels)] for i in batch]
    turns = [variants[i // len(labels) % len(variants)] for i in batch]
    # A scale for each image in one pass; functions of log-SNR are the same for all.
    scales = {name: [turn[name] for turn in turns] for name in variants[0]}
    scales = {name: values[0] if callable(values[0]) else np.array(values) for name, values in scales.items()}
    images, cost = plan.draw(batch, None if plan.labels is None else chosen, scales)
    how = {key: identity[key] for key in identity if key not in ("labels", "seed")}
    for i, image, label, turn, evaluations in zip(batch, images, chosen, turns, cost):
        path = image_file(output, i)
        entry = {"file": path.name, "index": i, "seed": image_seed(plan.options.seed, i)}
        entry |= {"label": label, "name": None if label is None else label_name(label, plan.class_names)}
        entry |= how | {name: turn[name] for name in plan.guidance.numbers} | {"evaluations": evaluations}
        _write_png(image, path, entry)


def label_name(label: int | dict, names: dict[int, str]) -> str:
    """What a label is called: the class, or the mixture."""
    if isinstance(label, dict):
        return "+".join(f"{weight:g}*{names[part]}" for part, weight in label.items())
    return names[label]


def image_file(output: Path, index: int) -> Path:
    """Where image number `index` of a sampled folder lies."""
    return output / f"{index:06d}.png"


def _claim_folder(output: Path, identity: dict) -> None:
    """Make the folder, or check that what it holds was drawn with the same options."""
    record = output / "options.json"
    if record.exists():
        before = json.loads(record.read_text())
        changed = [key for key in sorted(before.keys() | identity.keys()) if before.get(key) != identity.get(key)]
        if changed:
            raise UserError(
                f"{output} holds images drawn with other options ({', '.join(changed)} differ): "
                "choose another --output or remove it."
            )
    elif output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is not empty and was not made by this command: choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    for half_written in output.glob(f"{ASIDE}*"):
        half_written.unlink()
    write_text(record, json.dumps(identity, indent=1), per_process=True)


def _labels(pipeline, classifier, text: str | list[int] | None) -> list[int | dict] | None:
    """Labels from the command line's text or a list; None for a model without classes."""
    if pipeline.unet.config.num_class_embeds is None and classifier is None:
        if text is not None:
            raise UserError("This model is unconditional: leave --labels out, or give a --classifier.")
        return None
    if text is None:
        return list(pipeline.class_names(classifier))
    if not isinstance(text, str):
        return pipeline.label_ids(text, classifier)
    return read_labels(text, pipeline, classifier)


def _batches(count: int, options: SampleOptions, state: PartialState) -> list[range]:
    """This process's batches. They are fixed ranges, whoever draws them: equal batch sizes give equal bits."""
    size = options.batch_size
    batches = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return batches[state.process_index :: state.num_processes]


def _write_png(image: np.ndarray, path: Path, entry: dict) -> None:
    """Write an image, whose file itself says how it was made."""
    text = PngInfo()
    text.add_text(_PNG_KEY, json.dumps(entry))
    with written_aside(path, per_process=True) as aside:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(aside, "PNG", pnginfo=text)


def read_entry(path: Path) -> dict:
    """How an image of a sampled folder was made: its line of the manifest.

    Raises:
        UserError: It is damaged, or was not written by `sample.py`.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return json.loads(image.text[_PNG_KEY])
    except Exception as error:  # Pillow's readers raise nearly every type on bad bytes
        raise UserError(
            f"{path} is damaged or was not written by this command: remove it, and run the command again."
        ) from error
