"""What the tabs of the app share: limits, the visitors' work and their files."""

import html
import json
import shutil
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from cardiff.app.settings import Limits, Settings, command_line, options_of
from cardiff.app.work import Cancelled, Visitors, Work, progress_of
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.sampling.draw import Plan, make_plan
from cardiff.sampling.grid import Grid, grid_of, layout_of

T = TypeVar("T")
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

    def file(self, session: str | None, tab: str, name: str) -> Path:
        """A new place for a file of a visitor's tab; the files that the tab had before are removed."""
        shelf = self.folder / (session or "anyone") / tab
        shutil.rmtree(shelf, ignore_errors=True)
        place = shelf / uuid.uuid4().hex / name
        place.parent.mkdir(parents=True)
        return place

    def run(
        self, session: str | None, tab: str, total: Callable[[], int], function: Callable[[Work], T], shown: int
    ) -> Generator[list[Any], None, T | None]:
        """Do some work of a visitor; yield updates of a message and `shown` other outputs meanwhile.

        A sentence says what was wrong; None is returned then.

        Args:
            session: The visitor.
            tab: Where.
            total: Units of work, known once the options have been checked.
            function: The work, which calls `advance` of what it is given for each unit.
            shown: Outputs besides the message, which stay as they are.
        """
        others = [gr.skip()] * shown
        try:
            work = self.visitors.start(session, tab, total())
            steps = progress_of(work, lambda: function(work))
            while True:
                try:
                    share = next(steps)
                except StopIteration as end:
                    return end.value
                yield [progress(share), *others]
        except Cancelled:
            yield [note("Stopped."), *others]
        except UserError as error:
            yield [alert(str(error)), *others]
        except Exception:
            traceback.print_exc()  # for whoever runs the app; a visitor is told no more
            yield [alert("Something went wrong in Cardiff; the terminal of the app shows what."), *others]
        return None

    def leave(self, request: gr.Request) -> None:
        """Stop a visitor's work and remove their files."""
        self.visitors.stop(request.session_hash)
        if request.session_hash:
            shutil.rmtree(self.folder / request.session_hash, ignore_errors=True)


def steps_of(plan: Plan) -> int:
    """Solver steps of all batches of a grid."""
    batches = -(-layout_of(plan)[0] // plan.batch_size)
    return len(plan.pipeline.scheduler.timesteps) * batches * len(plan.guidance.variants)


def drawn(plan: Plan, work: Work) -> Grid:
    """The grid of a plan, counted step by step."""
    plan.on_step = lambda *_: work.advance()
    return grid_of(plan, this_process())


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
