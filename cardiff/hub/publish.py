"""publish.py: uploads a model with its card and samples to the Hub."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from cardiff.config.sections import HubTarget
from cardiff.errors import UserError
from cardiff.files import ASIDE, disk_errors, file_hash, remove
from cardiff.hub.client import Order, check_access, head_of, open_repository, push_checkpoint, push_model
from cardiff.hub.model_card import write_card
from cardiff.hub.options import PublishOptions
from cardiff.hub.provenance import RunRecord, read_record, write_record
from cardiff.hub.serialization import VARIANTS, classifier_weights_file, export_model, find_model, weights_file
from cardiff.hub.trust import refuse_links
from cardiff.integrity import CHECKSUMS, find_damage, listed_files, read_json, write_checksums
from cardiff.outputs import check_folder
from cardiff.training.checkpoint import newest_in, run_of, step_of


def publish(options: PublishOptions, aside: Path | None = None) -> str:
    """Publish a model as the options say, and return a sentence that names the repository or the folder.

    Args:
        options: What to publish, and where.
        aside: Where a run has its uploads prepared. They give up when a later step was pushed meanwhile.

    Raises:
        UserError: There is no model to publish, an option is wrong, or the upload is not possible.
        OSError: The disk is full or not writable.
    """
    options.check()
    if options.output is not None:
        _check_output(options.output)
    folder = find_model(options.model)
    repository = options.hub_model_id or default_repository(options.model)
    if options.output is not None:
        output = Path(options.output).resolve()
        with _prepared(_beside(output)) as prepared:
            metrics, best = prepare(folder, prepared, options)
            complete(prepared, repository, options, metrics, best)
            _move(prepared, output)
        return f"Wrote {options.output}; nothing was uploaded."

    check_access()
    order = Order(head_of(repository, options.hub_revision), None, aside is not None)
    checkpoint, state = None, None
    if options.hub_resume_id is not None:
        checkpoint = _checkpoint_of(folder)
        state = Order(head_of(options.hub_resume_id), step_of(checkpoint), aside is not None)
    with tempfile.TemporaryDirectory() as temporary, _prepared(aside or Path(temporary, "model")) as prepared:
        metrics, best = prepare(folder, prepared, options)
        # After everything that can be refused.
        repository = open_repository(repository, options.hub_private, options.hub_revision)
        order.parent = order.parent or head_of(repository, options.hub_revision)
        if options.hub_resume_id is not None:
            store = open_resume_repository(options.hub_resume_id, repository)
        complete(prepared, repository, options, metrics, best)
        record = read_record(prepared)
        order.step = record["step"] if record else None
        message = f"Model of step {order.step}" if record else "Model"
        address = push_model(prepared, repository, message, order, options.hub_revision)
    if checkpoint is not None and state is not None:
        push_checkpoint(checkpoint, store, state)
    return f"Published {address}"


@contextmanager
def _prepared(folder: Path) -> Iterator[Path]:
    """A new folder to prepare a model in, which is removed however this ends."""
    remove(folder)
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True)
            yield folder
    finally:
        remove(folder)


def _check_output(output: str) -> None:
    """Refuse a folder that cannot be written, or that has files of others."""
    check_folder("--output", output)
    if Path(output).exists() and any(not path.name.startswith(ASIDE) for path in Path(output).iterdir()):
        raise UserError(f"--output {output} is not empty: name another folder.")


def _beside(output: Path) -> Path:
    """Where a folder is prepared: beside it, or in it if it exists already."""
    return output / f"{ASIDE}model" if output.exists() else output.with_name(f"{ASIDE}{output.name}")


def _move(prepared: Path, output: Path) -> None:
    """Put a model that was prepared into its place, the list of its files last."""
    if not output.exists():
        os.replace(prepared, output)
    else:
        for path in sorted(prepared.iterdir(), key=lambda path: path.name == CHECKSUMS):
            os.replace(path, output / path.name)


def _checkpoint_of(folder: Path) -> Path:
    """The newest checkpoint of a run, whose files all lie in the run.

    Raises:
        UserError: There is none, it is damaged, or a file of it lies elsewhere.
    """
    checkpoint = newest_in(folder)
    refuse_links([checkpoint / name for name in (CHECKSUMS, *listed_files(checkpoint))], run_of(folder))
    damage = find_damage(checkpoint)
    if damage is not None:
        raise UserError(f"{checkpoint} is damaged ({damage}) and is not pushed: remove it, and train on.")
    return checkpoint


def open_resume_repository(name: str, model: str, retry: bool = True) -> str:
    """Create the repository of checkpoints, which is always private, and return its full name.

    Args:
        name: NAME or OWNER/NAME.
        model: Full name of the model's repository.
        retry: As of `open_repository`.

    Raises:
        UserError: The two are the same repository, or this one is public.
        HubError: The repository could not be created.
    """
    store = open_repository(name, private=True, retry=retry)
    if store == model:
        raise UserError(f"--hub_resume_id {name} is the repository of the model: name another repository.")
    return store


def default_repository(model: str) -> str:
    """The repository name that follows from the folder of a run: the folder's own name.

    Raises:
        UserError: It is not a valid name of a repository.
    """
    name = run_of(Path(model)).name
    HubTarget(hub_model_id=name).check()
    return name


def prepare(folder: Path, output: Path, options: PublishOptions) -> tuple[dict | None, dict | None]:
    """Write everything that is uploaded except the card: weights, configurations, run.json and samples.

    Returns:
        The metrics and the best evaluation, as `write_card` takes them.
    """
    variants = [variant.strip() for variant in options.variants.split(",") if variant.strip()]
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise UserError(f"--variants {unknown[0]} is unknown: choose from {', '.join(VARIANTS)}.")
    metrics = None if options.metrics is None else _read_metrics(Path(options.metrics))
    export_model(folder, output, variants, options.weights)
    if metrics is not None:
        # In half precision, what was measured must be what is written.
        _check_measured(metrics, folder if options.weights == "float32" else output, options)
    record, run = read_record(output), run_of(folder)
    best = None
    if record is not None:
        report = run / "reports" / f"step-{record['step']:08d}.json"
        if report.is_file():
            write_record(output, {**record, "report": read_json(report)})
        evaluation = run / "best" / "evaluation.json"
        refuse_links([report, evaluation], run)
        if evaluation.is_file():
            best = read_json(evaluation)
            best = best if best.get("step") == record["step"] else None
    picture = _picture(run, record, options.samples)
    if picture is not None:
        _copy_picture(picture, output / "samples.png")
    return metrics, best


def complete(
    prepared: Path, repository: str, options: PublishOptions, metrics: dict | None, best: dict | None
) -> None:
    """Write the card, and the list of all files but it, since it may be edited on the Hub."""
    write_card(prepared, repository, options.hub_revision, options.hub_license, metrics, best)
    write_checksums(prepared, leave_out=["README.md"])


def _read_metrics(file: Path) -> dict:
    """The content of a metrics.json of a model."""
    file = file / "metrics.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"--metrics {file} does not exist: name the --output folder of evaluate.py.")
    metrics = read_json(file)
    try:
        str(metrics["model"]["weights_sha256"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--metrics {file} is not a metrics.json of evaluate.py ({error!r}): run evaluate.py again."
        ) from error
    return metrics


def _check_measured(metrics: dict, folder: Path, options: PublishOptions) -> None:
    """Refuse metrics of other weights than those of a model's folder."""
    weights = next((f for f in (weights_file(folder), classifier_weights_file(folder)) if f.is_file()), None)
    if weights is None or metrics["model"]["weights_sha256"] != file_hash(weights):
        if options.weights == "float32":
            which, remedy = "", "run evaluate.py again"
        else:
            which, remedy = f" in {options.weights}", "publish to an --output without it, and run evaluate.py on that"
        raise UserError(
            f"--metrics {options.metrics} was measured with other weights than those of {options.model}{which}: "
            f"{remedy}."
        )


def _picture(run: Path, record: RunRecord | None, given: str | None) -> Path | None:
    """The image of the card: the one given, or the newest of the run that is not newer than the model."""
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"--samples {given} is not a file: name an image file.")
        return Path(given)
    kind = "reports" if record is not None and record["kind"] == "classifier" else "samples"
    last = f"step-{record['step']:08d}.png" if record is not None else "step-~"
    found = sorted(path for path in (run / kind).glob("step-*.png") if path.name <= last)
    refuse_links(found[-1:], run)
    return found[-1] if found else None


def _copy_picture(source: Path, target: Path) -> None:
    """Copy the pixels without metadata, in which sample.py names the model's folder."""
    try:
        with Image.open(source) as picture:
            clean = Image.frombytes(picture.mode, picture.size, picture.tobytes())
            if picture.mode == "P":
                clean.putpalette(picture.getpalette())
    except (OSError, ValueError) as error:
        raise UserError(f"{source} is not a readable image ({error}): name another with --samples.") from error
    clean.save(target)
