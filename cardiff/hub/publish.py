"""publish.py: a model with its card and samples on the Hub."""

import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from cardiff.config.sections import HubTarget
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.client import check_access, open_repository, push_checkpoint, push_model
from cardiff.hub.model_card import write_card
from cardiff.hub.options import PublishOptions
from cardiff.hub.provenance import RunRecord, read_record, write_record
from cardiff.hub.serialization import VARIANTS, classifier_weights_file, export_model, find_model, weights_file
from cardiff.training.checkpoint import newest_in, run_of


def publish(options: PublishOptions) -> str:
    """Carry the options out and return a sentence that says where the model is.

    Raises:
        UserError: Nothing to publish, or nowhere to.
    """
    options.check()
    folder = find_model(options.model)
    repository = options.hub_model_id or default_repository(options.model)
    if options.output is not None:
        output = Path(options.output)
        if output.exists() and any(output.iterdir()):
            raise UserError(f"--output {output} is not empty: name another folder.")
    else:
        check_access()
    checkpoint = newest_in(folder) if options.hub_resume_id is not None else None
    with tempfile.TemporaryDirectory() as aside:
        prepared = Path(aside, "model")
        metrics, best = prepare(folder, prepared, options)
        if options.output is None:  # only now, after all that could be refused
            repository = open_repository(repository, options.hub_private, options.hub_revision)
            if checkpoint is not None and options.hub_resume_id is not None:
                store = open_resume_repository(options.hub_resume_id, repository)
        write_card(prepared, repository, options.hub_revision, options.hub_license, metrics, best)
        if options.output is not None:
            shutil.copytree(prepared, output, dirs_exist_ok=True)
            return f"Wrote {output}; nothing was uploaded."
        record = read_record(prepared)
        message = f"Model of step {record['step']}" if record else "Model"
        address = push_model(prepared, repository, message, options.hub_revision)
    if checkpoint is not None:
        push_checkpoint(checkpoint, store)
    return f"Published {address}"


def open_resume_repository(name: str, model: str, patient: bool = True) -> str:
    """Make the repository of checkpoints, which is always private, and return its full name; see `open_repository`.

    Raises:
        UserError: It is that of the model.
    """
    store = open_repository(name, private=True, patient=patient)
    if store == model:
        raise UserError(f"--hub_resume_id {name} is the repository of the model: name another.")
    return store


def default_repository(model: str) -> str:
    """The name of a repository after the folder of a run.

    Raises:
        UserError: The folder's name cannot be that of a repository.
    """
    name = run_of(Path(model)).name
    HubTarget(hub_model_id=name).check()
    return name


def prepare(folder: Path, output: Path, options: PublishOptions) -> tuple[dict | None, dict | None]:
    """Write what is uploaded of a model, but for the card: weights and configurations anew, what trained it, samples.

    Returns:
        The metrics and the best evaluation, as `write_card` takes them.
    """
    variants = [variant.strip() for variant in options.variants.split(",") if variant.strip()]
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise UserError(f"--variants has no {unknown[0]!r}: give {' or '.join(VARIANTS)}.")
    metrics = None if options.metrics is None else _metrics_of(folder, Path(options.metrics))
    export_model(folder, output, variants)
    record, run = read_record(output), run_of(folder)
    best = None
    if record is not None:
        report = run / "reports" / f"step-{record['step']:08d}.json"
        if report.is_file():
            write_record(output, {**record, "report": json.loads(report.read_text())})
        evaluation = run / "best" / "evaluation.json"
        if evaluation.is_file():
            best = json.loads(evaluation.read_text())
            best = best if best["step"] == record["step"] else None
    picture = _picture(run, record, options.samples)
    if picture is not None:
        _copy_picture(picture, output / "samples.png")
    return metrics, best


def _metrics_of(folder: Path, file: Path) -> dict:
    """The content of a metrics.json, which must be of the model in the folder."""
    file = file / "metrics.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"--metrics {file} does not exist: give the --output of evaluate.py.")
    try:
        metrics = json.loads(file.read_text())
        measured = metrics["model"]["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--metrics {file} is not a metrics.json of evaluate.py ({error!r}).") from error
    weights = next((f for f in (weights_file(folder), classifier_weights_file(folder)) if f.is_file()), None)
    if weights is None or measured != file_hash(weights):
        raise UserError(f"--metrics {file} is of other weights than {folder}: run evaluate.py on the model again.")
    return metrics


def _picture(run: Path, record: RunRecord | None, given: str | None) -> Path | None:
    """The picture of the card: the one given, or the newest of the run that is not newer than the model."""
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"--samples {given} is no file: name a picture.")
        return Path(given)
    kind = "reports" if record is not None and record["kind"] == "classifier" else "samples"
    last = f"step-{record['step']:08d}.png" if record is not None else "step-~"
    found = sorted(path for path in (run / kind).glob("step-*.png") if path.name <= last)
    return found[-1] if found else None


def _copy_picture(source: Path, target: Path) -> None:
    """The pixels alone: what sample.py writes into a picture names the model's folder."""
    try:
        with Image.open(source) as picture:
            clean = Image.frombytes(picture.mode, picture.size, picture.tobytes())
            if picture.mode == "P":
                clean.putpalette(picture.getpalette())
    except (OSError, ValueError) as error:
        raise UserError(f"{source} is no picture that can be read ({error}).") from error
    clean.save(target)
