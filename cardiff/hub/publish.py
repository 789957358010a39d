"""publish.py: a model with its card and samples on the Hub; and the same in the background of a training run."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from PIL import Image

from cardiff.cli import one_sentence_errors
from cardiff.config.sections import HubOptions, HubTarget
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub.client import HubError, check_access, open_repository, push_checkpoint, push_model
from cardiff.hub.model_card import write_card
from cardiff.hub.options import PublishOptions
from cardiff.hub.provenance import read_record, write_record
from cardiff.hub.serialization import VARIANTS, classifier_weights_file, export_model, find_model, weights_file
from cardiff.training.checkpoint import newest_in, run_of

PATIENCE = 900
"""Seconds that a finished run waits for its last upload."""
NICENESS = 10
"""Of an upload: by Linux's weights a tenth of a core that the training wants too, so that it gets on even there."""
LAUNCHER = ("ACCELERATE_", "TORCHELASTIC_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_")
"""Beginnings of the variables that would make an upload look like one more process of a launch."""


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
        measured = prepare(folder, prepared, options)
        if options.output is None:  # only now, after all that could be refused
            repository = open_repository(repository, options.hub_private, options.hub_revision)
            store = checkpoint and open_resume_repository(options.hub_resume_id, repository)
        write_card(prepared, repository, revision=options.hub_revision, license=options.hub_license, **measured)
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


def prepare(folder: Path, output: Path, options: PublishOptions) -> dict:
    """Write what is uploaded of a model, but for the card: weights and configurations anew, what trained it, samples.

    Returns:
        What is known of its quality, as `write_card` takes it.
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
    return {"metrics": metrics, "best": best}


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


def _picture(run: Path, record: dict | None, given: str | None) -> Path | None:
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


class BackgroundPublisher:
    """Uploads the checkpoints of a run, one at a time, in a process of its own.

    So the training does not wait for a Hub that is slow, out of order or never answers: it is another process that
    waits, hashes and fails, and one that hangs can be killed. It takes the CPU that the training leaves. What was not
    uploaded when the next checkpoint comes is passed over for it.

    Raises:
        UserError: No upload will ever succeed: no token, or a name that no repository can have.
    """

    def __init__(self, output_dir: Path, target: HubOptions):
        check_access()
        self.output_dir, self.target = output_dir, target
        self.repository = target.hub_model_id or default_repository(str(output_dir))
        self.process: subprocess.Popen | None = None
        self.in_use: Path | None = None
        """The checkpoint that is being uploaded, which must stay where it is."""
        self.waiting: Path | None = None
        self.published: Path | None = None
        self.complaint = ""
        self.say: Callable[[str], None] = print

    def open(self, say: Callable[[str], None]) -> None:
        """Make the repositories now, so that the user sees at the start whether that works.

        Raises:
            UserError: A repository is public that was to be private.
        """
        self.say = say
        try:
            private, revision = self.target.hub_private, self.target.hub_revision
            self.repository = open_repository(self.repository, private, revision, patient=False)
            if self.target.hub_resume_id is not None:
                open_resume_repository(self.target.hub_resume_id, self.repository, patient=False)
            say(f"The model will be pushed to {self.repository}.")
        except HubError as error:
            self._complain(str(error))

    def push(self, checkpoint: Path) -> None:
        """Upload this checkpoint, after the one that is being uploaded."""
        self.waiting = checkpoint
        self.poll()

    def poll(self) -> None:
        """Report an upload that has ended, and start the next."""
        if self.process is not None and self.process.poll() is not None:
            self._ended()
        if self.process is None and self.waiting is not None:
            checkpoint, self.waiting = self.waiting, None
            try:
                self._start(checkpoint)
            except OSError as error:  # no memory for a process, no room for its output
                self._complain(f"the upload could not be started ({error}).")

    def finish(self, checkpoint: Path | None) -> None:
        """Upload the last checkpoint of a finished run and wait for it; of a stopped one (None), leave at once."""
        if checkpoint is None:
            if self.process is not None or self.waiting is not None:
                self.say(f"The upload was left; publish with: {self.command}")
            self._kill()
            return
        if checkpoint not in (self.in_use, self.waiting, self.published):
            self.push(checkpoint)
        self.say(f"Waiting for the upload to {self.repository}.")
        said = self.complaint
        try:
            while self.process is not None:
                self.process.wait(PATIENCE)
                self.poll()
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._kill()
            self._complain("the upload was given up.")
        if self.published == checkpoint:
            self.say(f"Published {self.repository}.")
        elif self.complaint == said:  # the last word, even if it was said before
            self.complaint = ""
            self._complain(said)

    @property
    def command(self) -> str:
        """What publishes the run by hand."""
        options = self._options(self.output_dir)
        private = ["--hub_private"] if options.pop("hub_private") else []
        given = [word for name, value in options.items() if value is not None for word in (f"--{name}", value)]
        return shlex.join(["python", "publish.py", *given, *private])

    def _options(self, model: Path) -> dict:
        target = {field.name: getattr(self.target, field.name) for field in fields(HubTarget)}
        return {"model": str(model), **target, "hub_model_id": self.repository}

    def _start(self, checkpoint: Path) -> None:
        self.log = tempfile.TemporaryFile("w+")  # a pipe would have to be read
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cardiff.hub.publish", json.dumps(self._options(checkpoint))],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the training
        )
        self.in_use = checkpoint
        if hasattr(os, "setpriority"):  # not on Windows
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    def _ended(self) -> None:
        """Take note of how an upload went; the same complaint is made once."""
        if self.process.returncode == 0:
            self.published, self.complaint = self.in_use, ""
        else:
            self.log.seek(0)
            lines = [line for line in self.log.read().splitlines() if line.strip()]
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            self._complain((errors or lines or [f"the upload ended with status {self.process.returncode}."])[-1])
        self.log.close()
        self.process = self.in_use = None

    def _complain(self, reason: str) -> None:
        if reason != self.complaint:
            self.say(f"Warning: not pushed to the Hub: {reason} Publish later with: {self.command}")
        self.complaint = reason

    def _kill(self) -> None:
        self.waiting = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = self.in_use = None


def _environment() -> dict[str, str]:
    """That of a program of its own, which leaves the devices to the training."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    path = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@one_sentence_errors
def _upload(argv: Sequence[str] | None) -> None:
    """What a BackgroundPublisher starts."""
    publish(PublishOptions(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    _upload()
