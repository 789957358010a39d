"""The tab Compare: the same noise under two settings, side by side, and how they differ."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from cardiff.app.controls import How, What, settings_of, shown_command, shown_image
from cardiff.app.settings import PLAIN, Settings, command_line
from cardiff.app.site import PICTURE, Site, note
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.sampling.draw import Plan
from cardiff.sampling.grid import Grid, grid_of

SCALES = (1.0, 4.0)
"""Guidance of the two sides at the start."""


def add_compare_tab(site: Site) -> None:
    """Add the controls of the tab."""
    sides: list[How] = []
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            what = What(site.limits, columns=2)
        for name, scale in zip("AB", SCALES):
            with gr.Column(scale=1, min_width=240):
                gr.Markdown(f"### {name}")
                sides.append(How(site.limits, kind=PLAIN, scale=scale))
    with gr.Row():
        go = gr.Button("Compare", variant="primary", elem_id="compare-go")
        stop = gr.Button("Stop")
    message = gr.HTML(elem_id="compare-message")
    picture = shown_image("A, B and their difference, which is grey where they are equal", "compare-picture")
    commands = shown_command("The commands for A and B", "compare-commands")

    shared, own = list(what.components), list(sides[0].components)

    def plans_of(*values: Any) -> list[Plan]:
        return [site.plan(side) for side in settings_of_sides(shared, own, values)]

    def make(plans: list[Plan], folder: Path) -> list[Any]:
        size = save_comparison([grid_of(plan, this_process()) for plan in plans], folder / PICTURE)
        text = note(f"They differ by {size:.1f} of 255 grey levels on average (root mean square).")
        return [text, str(folder / PICTURE), "\n".join(command_line(plan.options) for plan in plans)]

    controls = [*what.components.values(), *sides[0].components.values(), *sides[1].components.values()]
    site.draws("compare", go, stop, controls, [message, picture, commands], plans_of, make)


def settings_of_sides(shared: Sequence[str], own: Sequence[str], values: Sequence[Any]) -> list[Settings]:
    """The settings of both sides, from the values of the shared controls, then those of A and those of B."""
    first, rest = values[: len(shared)], values[len(shared) :]
    halves = rest[: len(own)], rest[len(own) :]
    return [settings_of([*shared, *own], [*first, *half]) for half in halves]


def save_comparison(grids: Sequence[Grid], path: Path) -> float:
    """Write A, B and their difference as three blocks of a grid, and return the root mean square difference.

    Raises:
        UserError: The images have different sizes.
    """
    a, b = grids
    if a.blocks.shape != b.blocks.shape:
        raise UserError("A and B have different numbers or sizes of images: choose models of one size.")
    difference = b.blocks.astype(np.int16) - a.blocks
    blocks = np.concatenate([a.blocks, b.blocks, (128 + difference / 2).round().clip(0, 255).astype(np.uint8)])
    titles = [f"A: {a.titles[0]}", f"B: {b.titles[0]}", "difference"]
    replace(a, blocks=blocks, titles=titles).save(path)
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))
