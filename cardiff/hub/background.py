"""Uploads the checkpoints of a training run while it continues, in a separate process."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from cardiff.cli import one_sentence_errors
from cardiff.config.sections import HubOptions, HubTarget
from cardiff.files import ASIDE, remove
from cardiff.hub.client import HubError, check_access, open_repository
from cardiff.hub.options import PublishOptions
from cardiff.hub.publish import default_repository, open_resume_repository, publish
from cardiff.interrupt import Stopped

LAST_UPLOAD_TIMEOUT = 900
"""Seconds that a finished run waits for its last upload."""
NICENESS = 10
"""`nice` value of an upload: on Linux it then gets a tenth of a core that the training uses too."""
POLLED = 0.5
"""Seconds between the looks of an upload at whether its run is still there."""
LAUNCHER = ("ACCELERATE_", "TORCHELASTIC_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_")
"""Prefixes of the environment variables by which a process takes part in a distributed launch."""


class BackgroundPublisher:
    """Uploads the checkpoints of a run, one at a time, in a separate process of low priority.

    The training never waits for the Hub, whether it is slow, unavailable or silent, and an upload that hangs can be
    killed. While an upload runs, only the newest checkpoint is kept waiting; older ones are not uploaded.

    Args:
        output_dir: Output folder of the run.
        target: Where it is published.

    Raises:
        UserError: No upload can succeed: there is no token, or the name of the repository is not valid.
    """

    def __init__(self, output_dir: Path, target: HubOptions):
        check_access()
        self.output_dir, self.target = output_dir, target
        self.aside = output_dir / f"{ASIDE}upload"
        """Where uploads are prepared; what a killed one leaves is removed when the run is started again."""
        self.repository = target.hub_model_id or default_repository(str(output_dir))
        self.process: subprocess.Popen | None = None
        self.in_use: Path | None = None
        """The checkpoint that is being uploaded, which must not be moved or removed."""
        self.waiting: Path | None = None
        self.published: Path | None = None
        self.warning = ""
        self.say: Callable[[str], None] = print

    def open(self, say: Callable[[str], None]) -> None:
        """Create the repositories, so that problems show at the start; a Hub that fails is a warning.

        Args:
            say: Prints a message.

        Raises:
            UserError: A repository is public although it should be private.
        """
        self.say = say
        try:
            private, revision = self.target.hub_private, self.target.hub_revision
            self.repository = open_repository(self.repository, private, revision, retry=False)
            if self.target.hub_resume_id is not None:
                open_resume_repository(self.target.hub_resume_id, self.repository, retry=False)
            say(f"The model will be pushed to {self.repository}.")
        except HubError as error:
            self._warn(str(error))

    def push(self, checkpoint: Path) -> None:
        """Upload this checkpoint, after the one that is being uploaded, unless it is published already."""
        if checkpoint not in (self.in_use, self.published):
            self.waiting = checkpoint
        self.poll()

    def poll(self) -> None:
        """Report an upload that has ended, and start the next one."""
        if self.process is not None and self.process.poll() is not None:
            self._ended(self.process)
        if self.process is None and self.waiting is not None:
            checkpoint, self.waiting = self.waiting, None
            try:
                self._start(checkpoint)
            except OSError as error:  # no memory for a process, no room for its output
                self._warn(f"the upload could not be started ({error}).")

    def finish(self, checkpoint: Path | None) -> None:
        """Upload the last checkpoint of a finished run and wait for it; of a stopped one (None), leave at once.

        A signal ends the waiting and the upload, which is a warning.
        """
        if checkpoint is None:
            if self.process is not None or self.waiting is not None:
                self.say(f"The upload was stopped; publish with: {self.command}")
            self._kill()
            return
        self.push(checkpoint)
        self.say(f"Waiting for the upload to {self.repository}.")
        before = self.warning
        try:
            while self.process is not None:
                self.process.wait(LAST_UPLOAD_TIMEOUT)
                self.poll()
        except (subprocess.TimeoutExpired, KeyboardInterrupt, Stopped):  # the run itself is complete and saved
            self._kill()
            self._warn("the upload was stopped.")
        if self.published == checkpoint:
            self.say(f"Published {self.repository}.")
        elif self.warning == before:  # the last message, even if it is a repetition
            self.warning = ""
            self._warn(before)

    @property
    def command(self) -> str:
        """The command that publishes the run."""
        options = self._options(self.output_dir)
        private = ["--hub_private"] if options.pop("hub_private") else []
        given = [word for name, value in options.items() if value is not None for word in (f"--{name}", value)]
        return shlex.join(["python", "publish.py", *given, *private])

    def _options(self, model: Path) -> dict:
        target = {field.name: getattr(self.target, field.name) for field in fields(HubTarget)}
        return {"model": str(model), **target, "hub_model_id": self.repository}

    def _start(self, checkpoint: Path) -> None:
        self.log = tempfile.TemporaryFile("w+")  # a pipe would have to be read
        given = {"options": self._options(checkpoint), "aside": str(self.aside), "parent": os.getpid()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cardiff.hub.background", json.dumps(given)],
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
        """Record whether an upload succeeded; the same warning is printed once."""
        if process.returncode == 0:
            self.published, self.warning = self.in_use, ""
        else:
            self.log.seek(0)
            lines = [line for line in self.log.read().splitlines() if line.strip()]
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            self._warn((errors or lines or [f"the upload ended with status {process.returncode}."])[-1])
        self.log.close()
        self.process = self.in_use = None

    def _warn(self, reason: str) -> None:
        if reason != self.warning:
            self.say(f"Warning: not pushed to the Hub: {reason} Publish later with: {self.command}")
        self.warning = reason

    def _kill(self) -> None:
        self.waiting = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = self.in_use = None
            remove(self.aside)


def _environment() -> dict[str, str]:
    """The environment of an upload: outside of the distributed launch, and without GPUs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    path = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@one_sentence_errors
def _upload(argv: Sequence[str] | None) -> None:
    """The program that a BackgroundPublisher starts."""
    given = json.loads(sys.argv[1])
    aside = Path(given["aside"])
    threading.Thread(target=_end_with, args=(given["parent"], aside), daemon=True).start()
    publish(PublishOptions(**given["options"]), aside)


def _end_with(parent: int, aside: Path) -> None:
    """End this process as soon as its run has ended, however that did: a later run may push to the same place."""
    while os.getppid() == parent:
        time.sleep(POLLED)
    remove(aside)
    os._exit(1)


if __name__ == "__main__":
    _upload()
