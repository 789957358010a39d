"""The tab Watch: the reverse process of a few images, step by step, and as an animation."""

from pathlib import Path
from typing import Any

import gradio as gr

from cardiff.app.controls import How, What, settings_of, shown_command, shown_image
from cardiff.app.settings import PLAIN, command_line
from cardiff.app.site import Site, note
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.sampling.animation import frame, save
from cardiff.sampling.draw import Plan
from cardiff.sampling.film import CAN_FILM
from cardiff.sampling.trajectory import MOST_IMAGES, Trajectory, record

ENDINGS = ("webp", "gif", "png", *(["mp4"] if CAN_FILM else []))


def add_watch_tab(site: Site) -> None:
    """Add the controls of the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            what, how = What(site.limits, columns=1), How(site.limits, kind=PLAIN)
            ending = gr.Radio(ENDINGS, value=ENDINGS[0], label="Animation as")
            with gr.Row():
                go = gr.Button("Watch", variant="primary", elem_id="watch-go")
                stop = gr.Button("Stop")
            message = gr.HTML(elem_id="watch-message")
        with gr.Column(scale=3, min_width=300):
            trajectory = gr.State(time_to_live=3600)
            picture = shown_image(
                f"The noisy images, and what the network takes them to be (at most {MOST_IMAGES})", "watch-frame"
            )
            step = gr.Slider(0, 20, value=0, step=1, label="Step: 0 is pure noise", elem_id="watch-step")
            command = shown_command("The command that makes exactly this animation", "watch-command")
            file = gr.File(label="Animation", interactive=False)

    controls = {**what.components, **how.components}

    def plans_of(ending: str, *values: Any) -> list[Plan]:
        if ending not in ENDINGS:
            raise UserError(f"There are no animations as {ending!r}: choose from {', '.join(ENDINGS)}.")
        return [site.plan(settings_of(list(controls), values), animation=f"steps.{ending}")]

    def make(plans: list[Plan], folder: Path) -> list[Any]:
        (plan,) = plans
        found = record(plan, this_process())
        assert plan.options.animation is not None
        path = folder / plan.options.animation
        save(found, path)
        slider = gr.Slider(maximum=found.steps, value=found.steps)
        text = note(f"{found.steps} steps. Move the slider, or choose it and use the arrow keys.")
        return [text, found, frame(found, found.steps), slider, command_line(plan.options), str(path)]

    outputs = [message, trajectory, picture, step, command, file]
    site.draws("watch", go, stop, [ending, *controls.values()], outputs, plans_of, make)

    def show(found: Trajectory | None, step: int) -> Any:
        return gr.skip() if found is None else frame(found, min(max(int(step), 0), found.steps))

    step.input(
        show,
        [trajectory, step],
        picture,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=4,
        api_visibility="private",
    )
