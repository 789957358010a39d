"""The checkpoints of a training run, published while it goes on, by a process of its own."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from cardiff.cli import one_sentence_errors
from cardiff.config.sections import HubOptions, HubTarget
from cardiff.hub.client import HubError, check_access, open_repository
from cardiff.hub.options import PublishOptions
from cardiff.hub.publish import default_repository, open_resume_repository, publish

PATIENCE = 900
"""Seconds that a finished run waits for its last upload."""
NICENESS = 10
"""Of an upload: by Linux's weights a tenth of a core that the training wants too, so that it gets on even there."""
LAUNCHER = ("ACCELERATE_", "TORCHELASTIC_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_")
"""Beginnings of the variables that would make an upload look like one more process of a launch."""


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
            self._ended(self.process)
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
            [sys.executable, "-m", "cardiff.hub.background", json.dumps(self._options(checkpoint))],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the training
        )
        self.in_use = checkpoint
        if hasattr(os, "setpriority"):  # not on Windows
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    def _ended(self, process: subprocess.Popen) -> None:
        """Take note of how an upload went; the same complaint is made once."""
        if process.returncode == 0:
            self.published, self.complaint = self.in_use, ""
        else:
            self.log.seek(0)
            lines = [line for line in self.log.read().splitlines() if line.strip()]
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            self._complain((errors or lines or [f"the upload ended with status {process.returncode}."])[-1])
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
