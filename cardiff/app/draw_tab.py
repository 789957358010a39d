"""The tab Draw: a labelled grid, and the command that makes exactly the same."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from cardiff.app.controls import How, What, settings_of, shown_command, shown_image
from cardiff.app.settings import PLAIN, command_line
from cardiff.app.site import NETWORKS, PICTURE, Site, drawn, manifest, note, rows_of, steps_of
from cardiff.app.work import Work
from cardiff.sampling.draw import Plan
from cardiff.sampling.grid import Grid


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

    def draw(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        plans: list[Plan] = []

        def total() -> int:
            plans.append(site.plan(settings_of(list(controls), values)))
            return steps_of(plans[0])

        def work(counter: Work) -> Grid:
            return drawn(plans[0], counter)

        grid = yield from site.run(request.session_hash, "draw", total, work, shown=4)
        if grid is None:
            return
        file = site.file(request.session_hash, "draw", PICTURE)
        grid.save(file)
        listing = file.with_name("manifest.jsonl")
        listing.write_text(manifest(plans[0], grid), encoding="utf-8")
        text = note(f"{grid.blocks.shape[1]} images, {len(plans[0].pipeline.scheduler.timesteps)} steps.")
        yield [text, str(file), command_line(plans[0].options), [str(file), str(listing)], list(rows_of(grid))]

    go.click(
        draw,
        list(controls.values()),
        [message, picture, command, files, table],
        concurrency_id=NETWORKS,
        concurrency_limit=1,
        show_progress_on=message,
        api_name="draw",
    )

    def halt(request: gr.Request) -> None:
        site.visitors.stop(request.session_hash, "draw")

    stop.click(halt, None, None, queue=False, api_visibility="private")
