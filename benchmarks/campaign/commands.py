"""Commands of the project as processes: forked from one that has imported everything, killed, waited for, and judged.

A fork is a process like any other to the kernel, to locks and to signals, and starts in a hundredth of a second.
"""

import gc
import importlib
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("train_conditional", "train_unconditional", "train_classifier", "sample", "evaluate", "compare", "publish")
COMMANDS += ("analyze_schedules",)
LAZY = ("cardiff.training.build", "cardiff.sampling.sample", "cardiff.evaluation.evaluate", "cardiff.hub.publish")
LAZY += ("cardiff.evaluation.reports.comparison", "cardiff.analysis.report", "tensorboard", "torch.utils.tensorboard")
LAZY += ("markdown", "sklearn.cluster", "PIL.PngImagePlugin", "matplotlib.backends.backend_agg")
LAZY += ("diffusers.pipelines.pipeline_utils", "transformers", "pyarrow.parquet", "datasets.packaged_modules")
"""What the commands import once their options are read."""
TIMEOUT = 120.0
"""Seconds after which a command counts as hanging."""


def import_commands() -> None:
    """Import all that the commands do, without running anything: no thread, no process group, no random number."""
    for name in COMMANDS:
        importlib.import_module(f"cardiff.scripts.{name}")
    for name in LAZY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page


@dataclass(frozen=True)
class Command:
    """A command line of the project, as it would be typed."""

    name: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    folder: Path | None = None
    """Where it is given; the checkout by default."""

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, "python", f"{self.name}.py", shlex.join(self.arguments)])

    def also(self, *arguments: object) -> "Command":
        """The same with more arguments."""
        return Command(self.name, (*self.arguments, *map(str, arguments)), self.environment, self.folder)


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    """Exit status, or the negative number of the signal that ended it."""
    output: str
    errors: str
    seconds: float
    hung: bool = False

    @property
    def traceback(self) -> str | None:
        """The last line of a traceback, or the signal that ended a command which nobody killed."""
        text = self.output + self.errors
        if "Traceback (most recent call last)" in text:
            lines = [line for line in text.split("Traceback (most recent call last)")[-1].splitlines() if line.strip()]
            found = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Warning)?(: |$)", line)]
            at = re.findall(r'File "([^"]*/)?(cardiff|pipelines|schedulers)/([^"]*)", line (\d+)', text)
            where = f" ({at[-1][1]}/{at[-1][2]}:{at[-1][3]})" if at else ""
            return (found or lines or ["?"])[-1][:300] + where
        return None

    @property
    def sentence(self) -> str | None:
        """What it says is wrong, if that is one sentence."""
        said = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        return said[0].removeprefix("error: ") if len(said) == 1 else None


class Running:
    """A command that has been started."""

    def __init__(self, command: Command, scratch: Path, before: Callable[[], object] | None = None):
        scratch.mkdir(parents=True, exist_ok=True)
        number = time.monotonic_ns()
        self.files = scratch / f"{number}.out", scratch / f"{number}.err"
        for file in self.files:
            file.touch()
        self.started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be(command, self.files, before)

    def wait(self, timeout: float = TIMEOUT) -> Outcome:
        """Wait for its end; one that hangs is killed with all that it started."""
        hung, pause = False, 0.002
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if not hung and time.monotonic() - self.started > timeout:
                hung = True
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(pause)
            pause = min(0.02, pause * 1.2)
        output, errors = (file.read_text(errors="replace") for file in self.files)
        for file in self.files:
            file.unlink()
        return Outcome(os.waitstatus_to_exitcode(status), output, errors, time.monotonic() - self.started, hung)

    def kill_after(self, seconds: float, number: int = signal.SIGKILL, patience: float = TIMEOUT) -> Outcome:
        """Send it a signal after so many seconds, unless it ends before; then wait as long as there is patience."""
        due = self.started + seconds
        while time.monotonic() < due:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.001)
        else:
            os.kill(self.pid, number)
        return self.wait(seconds + patience)


def _be(command: Command, files: Sequence[Path], before: Callable[[], object] | None) -> None:
    """In the child: become the command, and end as it ends."""
    status = 1
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        for descriptor, file in zip((1, 2), files):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ.update(command.environment)
        os.chdir(command.folder or ROOT)
        sys.argv = [f"{command.name}.py", *command.arguments]
        if before is not None:
            before()
        importlib.import_module(f"cardiff.scripts.{command.name}").main(list(command.arguments))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def run(command: Command, scratch: Path, before: Callable[[], object] | None = None) -> Outcome:
    """Run a command to its end."""
    return Running(command, scratch, before).wait()
