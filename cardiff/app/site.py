"""What the tabs of the app share: limits, the visitors' work and their files."""

import html
import json
import shutil
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from cardiff.app.settings import Limits, Settings, command_line, options_of
from cardiff.app.work import Cancelled, Visitors, progress_of
from cardiff.errors import UserError, disk_sentence
from cardiff.sampling.draw import Plan, make_plan
from cardiff.sampling.grid import Grid, layout_of

NETWORKS = "networks"
"""Name of the queue of all that evaluates networks: one visitor at a time, in the order of coming."""
PICTURE = "picture.png"
"""Name of a drawn picture when it is downloaded, and in the command that makes it."""


class Site:
    """An app: its limits, and a temporary folder for the files of visitors.

    Args:
        limits: What visitors may ask for.
        folder: All that is written goes here.
    """

    def __init__(self, limits: Limits, folder: Path):
        self.limits, self.folder, self.visitors = limits, folder, Visitors()
        self.at_start: list[tuple[Callable, list, list]] = []
        """Called with inputs and outputs when a visitor comes."""

    def plan(self, settings: Settings, animation: str | None = None) -> Plan:
        """The plan of a picture, or of an animation; its options are those of the command that makes it.

        Args:
            settings: What the visitor has chosen.
            animation: Name of the file.

        Raises:
            UserError: Something is not allowed, or does not fit the model.
        """
        options = options_of(settings, self.limits, PICTURE)
        if animation is not None:
            options = replace(options, grid=None, animation=animation)
        return make_plan(options, progress=lambda count: None)

    def folder_of(self, session: str | None, tab: str) -> Path:
        """A new folder for the files of a visitor's tab; those that the tab had before are removed."""
        shelf = self.folder / (session or "anyone") / tab
        shutil.rmtree(shelf, ignore_errors=True)
        folder = shelf / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    def draws(
        self,
        tab: str,
        go: gr.Button,
        stop: gr.Button,
        inputs: Sequence[Component],
        outputs: Sequence[Component],
        plans_of: Callable[..., list[Plan]],
        make: Callable[[list[Plan], Path], list[Any]],
    ) -> None:
        """Let a button draw and another one stop it.

        The first output is a message: progress meanwhile, and then a sentence, which says what was wrong if something
        was; the other outputs then stay as they are.

        Args:
            tab: Name of the tab, and of the function for programs.
            go: Draws.
            stop: Ends that after the present solver step.
            inputs: Whose values are given to `plans_of`.
            outputs: The message and the others.
            plans_of: Checks the values, and says what to draw.
            make: Draws, writes files into the folder, and returns the values of all outputs.
        """
        others = [gr.skip()] * (len(outputs) - 1)

        def handle(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
            try:
                plans = plans_of(*values)
                work = self.visitors.start(request.session_hash, tab, sum(map(steps_of, plans)))
                for plan in plans:
                    plan.on_step = lambda *_: work.advance()
                steps = progress_of(work, lambda: make(plans, self.folder_of(request.session_hash, tab)))
                while True:
                    try:
                        share = next(steps)
                    except StopIteration as end:
                        yield end.value
                        return
                    yield [progress(share), *others]
            except Cancelled:
                yield [note("Stopped."), *others]
            except Exception as error:
                yield [alert(sentence_of(error)), *others]

        go.click(
            handle,
            list(inputs),
            list(outputs),
            concurrency_id=NETWORKS,
            concurrency_limit=1,
            show_progress_on=outputs[0],
            api_name=tab,
        )

        def halt(request: gr.Request) -> None:
            self.visitors.stop(request.session_hash, tab)

        stop.click(halt, None, None, queue=False, api_visibility="private")

    def leave(self, request: gr.Request) -> None:
        """Stop a visitor's work and remove their files."""
        self.visitors.stop(request.session_hash)
        if request.session_hash:
            shutil.rmtree(self.folder / request.session_hash, ignore_errors=True)


def steps_of(plan: Plan) -> int:
    """Solver steps of all batches of a grid."""
    batches = -(-layout_of(plan)[0] // plan.batch_size)
    return len(plan.pipeline.scheduler.timesteps) * batches * len(plan.guidance.variants)


def sentence_of(error: Exception) -> str:
    """What a visitor is told of an error; a bug keeps its traceback for whoever runs the app."""
    if isinstance(error, UserError):
        return str(error)
    disk = disk_sentence(error)
    if disk is not None:
        return f"The picture could not be written: {disk}"
    traceback.print_exception(error)
    return "Something went wrong in Cardiff; the terminal of the app shows what."


def manifest(plan: Plan, grid: Grid) -> str:
    """A line of JSON for each image: the command, and what is to be said of the image."""
    command = command_line(plan.options)
    return "".join(f"{json.dumps({**entry, 'command': command})}\n" for entry in grid.entries())


def progress(share: float) -> str:
    """A bar."""
    return f'<label class="cardiff-note">Drawing <progress value="{share:.3f}" max="1">{share:.0%}</progress></label>'


def note(text: str) -> str:
    """A quiet sentence."""
    return f'<p class="cardiff-note" role="status">{html.escape(text)}</p>'


def alert(text: str) -> str:
    """What is wrong, in a sentence."""
    return f'<p class="cardiff-alert" role="alert">{html.escape(text)}</p>'


def rows_of(grid: Grid) -> Iterator[list[str]]:
    """A row a picture for the table below the grid: class, column, seed, cost."""
    for entry in grid.entries():
        evaluations = entry["evaluations"]
        assert isinstance(evaluations, dict)
        cost = ", ".join(f"{count} of {network}" for network, count in evaluations.items())
        yield [str(entry["name"] or "–"), str(entry["column"]), str(entry["index"]), str(entry["seed"]), cost]
