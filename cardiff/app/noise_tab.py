"""The tab Noise: one picture under several schedules, and a schedule of one's own."""

from typing import Any

import gradio as gr

from cardiff.app.controls import shown_image
from cardiff.app.knots import knots_editor, read_knots
from cardiff.app.noise import (
    MOST,
    OWN,
    SCHEDULES,
    SETS,
    draw_curves,
    picture_set,
    save_strip,
    table_of_measures,
    yaml_of_knots,
)
from cardiff.app.site import Site, alert, sentence_of
from cardiff.errors import UserError

START = ["linear", "cosine", "spectral"]


def add_noise_tab(site: Site) -> None:
    """Add the controls of the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            pictures = gr.Radio(list(SETS), value=next(iter(SETS)), label="Pictures")
            number = gr.Slider(0, 99, value=13, step=1, label="Number of the picture")
            upload = gr.Image(label="Or a picture of yours", type="filepath", sources=["upload"], height=140)
            schedules = gr.Dropdown(
                SCHEDULES,
                value=START,
                multiselect=True,
                max_choices=MOST,
                label="Schedules",
                info=f"Up to {MOST}.",
                interactive=True,
            )
            t = gr.Slider(0, 1, value=0.4, step=0.01, label="Time t: 0 image, 1 noise", elem_id="noise-t")
            seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0)
        with gr.Column(scale=3, min_width=300):
            message = gr.HTML(elem_id="noise-message")
            strip = shown_image(
                "The picture at time t, and the best linear estimate of what is left of it", "noise-strip"
            )
    curves = shown_image(
        "Log-SNR over time, what can be read of each octave, and where ten sampling steps lie", "noise-curves"
    )
    with gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown(
                "### Your own schedule\nDrag a knot, or choose one with the tab key and use the arrow keys. A smooth "
                "curve through the knots is yours."
            )
            knots = knots_editor()
        with gr.Column(min_width=300):
            gr.Markdown(
                "To train on it: save this as `mine.yaml`, then  \n"
                "`python train_conditional.py --config cars_32_conditional --config mine.yaml --output_dir runs/mine`"
            )
            yaml = gr.Code(
                label="mine.yaml",
                language="yaml",
                elem_id="noise-yaml",
                wrap_lines=True,
            )
    table = gr.Dataframe(
        label="Measures: more structure and less error are better",
        interactive=False,
        wrap=True,
        elem_id="noise-table",
    )

    def show(
        request: gr.Request,
        title: str,
        number: int,
        upload: str | None,
        names: list[str],
        t: float,
        seed: int,
        drawn: str,
    ) -> list[Any]:
        try:
            if title not in SETS or not set(names) <= set(SCHEDULES):
                raise UserError("Choose pictures and schedules from the lists.")
            data, own = picture_set(title), read_knots(drawn)
            tables = {name: data.log_snr(name, own) for name in [*names[:MOST], OWN]}
            picture = data.picture(int(number or 0), upload)
            folder = site.folder_of(request.session_hash, "noise")
            strip_file, figure = folder / "strip.png", folder / "curves.png"
            save_strip(data, picture, tables, float(t or 0), int(seed or 0), strip_file)
            draw_curves(data, tables, float(t or 0)).save(figure)
            headers, rows = table_of_measures(data, tables)
        except Exception as error:
            return [alert(sentence_of(error)), gr.skip(), gr.skip(), gr.skip(), gr.skip()]
        return ["", str(strip_file), str(figure), {"headers": headers, "data": rows}, yaml_of_knots(own)]

    inputs = [pictures, number, upload, schedules, t, seed, knots]
    outputs = [message, strip, curves, table, yaml]
    how: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": 2}
    gr.on(
        [pictures.change, number.release, upload.change, schedules.change, t.change, seed.change, knots.change],
        show,
        inputs,
        outputs,
        api_name="noise",
        **how,
    )
    site.at_start.append((show, inputs, outputs))
