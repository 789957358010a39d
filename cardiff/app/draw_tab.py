"""The tab Draw: a labelled grid, and the command that makes exactly the same."""

from pathlib import Path
from typing import Any

import gradio as gr

from cardiff.app.controls import How, What, settings_of, shown_command, shown_image
from cardiff.app.settings import PLAIN, command_line
from cardiff.app.site import PICTURE, Site, manifest, note, rows_of
from cardiff.distributed import this_process
from cardiff.files import write_text
from cardiff.sampling.draw import Plan
from cardiff.sampling.grid import grid_of


def add_draw_tab(site: Site) -> None:
    """Add the controls of the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            what, how = What(site.limits, columns=4), How(site.limits, kind=PLAIN)
            with gr.Row():
                go = gr.Button("Draw", variant="primary", elem_id="draw-go")
                stop = gr.Button("Stop", elem_id="draw-stop")
            message = gr.HTML(elem_id="draw-message")
        with gr.Column(scale=3, min_width=300):
            picture = shown_image("The classes, a row each", "draw-picture")
            command = shown_command("The command that makes exactly this picture", "draw-command")
            files = gr.File(label="Picture and manifest", interactive=False)
            with gr.Accordion("Seed and cost of each image", open=False):
                table = gr.Dataframe(headers=["class", "column", "image", "seed", "evaluations"], interactive=False)

    controls = {**what.components, **how.components}

    def plans_of(*values: Any) -> list[Plan]:
        return [site.plan(settings_of(list(controls), values))]

    def make(plans: list[Plan], folder: Path) -> list[Any]:
        (plan,) = plans
        grid = grid_of(plan, this_process())
        file, listing = folder / PICTURE, folder / "manifest.jsonl"
        grid.save(file)
        write_text(listing, manifest(plan, grid))
        text = note(f"{grid.blocks.shape[1]} images, {len(plan.pipeline.scheduler.timesteps)} steps.")
        return [text, str(file), command_line(plan.options), [str(file), str(listing)], list(rows_of(grid))]

    outputs = [message, picture, command, files, table]
    site.draws("draw", go, stop, list(controls.values()), outputs, plans_of, make)
