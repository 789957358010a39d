"""The app as a whole."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

# Before gradio is imported: it reports nothing to anyone, and writes only below our folder.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from cardiff.app.compare_tab import add_compare_tab
from cardiff.app.draw_tab import add_draw_tab
from cardiff.app.noise_tab import add_noise_tab
from cardiff.app.options import SHIPPED, SHIPPED_CLASSIFIER, AppOptions
from cardiff.app.settings import Limits
from cardiff.app.site import Site
from cardiff.app.watch_tab import add_watch_tab
from cardiff.errors import UserError
from cardiff.hub.serialization import find_model, load_classifier, load_pipeline

CSS = """
.cardiff-alert { color: #b00020; font-weight: 600; margin: 0.3em 0 }
.dark .cardiff-alert { color: #ff8a80 }
.cardiff-note { margin: 0.3em 0 }
.cardiff-note progress { width: 60%; vertical-align: middle }
"""
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
"""Of the visitor's machine: nothing is loaded from elsewhere."""


def limits_of(options: AppOptions) -> Limits:
    """Open every model once, to know that it can be, and its classes.

    Raises:
        UserError: A model cannot be found or read.
    """
    models = {}
    for model in options.model:
        pipeline = load_pipeline(find_model(model))
        models[model] = tuple(pipeline.class_names().values())
    classifier = options.classifier
    if classifier is None and set(options.model) <= set(SHIPPED):
        classifier = SHIPPED_CLASSIFIER
    if classifier is not None:
        load_classifier(find_model(classifier))
    return Limits(models, classifier, options.max_images, options.max_steps)


def build_app(limits: Limits, folder: Path) -> gr.Blocks:
    """The app, which writes below this folder only."""
    site = Site(limits, folder)
    with gr.Blocks(title="Cardiff", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown("# Cardiff\nClass-conditional diffusion: see what guidance and noise schedules do.")
        with gr.Tab("Draw", id="draw"):
            add_draw_tab(site)
        with gr.Tab("Watch", id="watch"):
            add_watch_tab(site)
        with gr.Tab("Compare", id="compare"):
            add_compare_tab(site)
        with gr.Tab("Noise", id="noise"):
            add_noise_tab(site)
        for function, inputs, outputs in site.at_start:
            app.load(function, inputs, outputs, show_progress="hidden", api_visibility="private")
        app.unload(site.leave)
    return app


def serve(options: AppOptions) -> None:
    """Open the app and wait until it is stopped.

    Raises:
        UserError: A model cannot be read, or the port is taken.
    """
    limits = limits_of(options)
    with TemporaryDirectory(prefix="cardiff_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "cache"))
        app = build_app(limits, Path(folder, "visitors"))
        app.queue(max_size=options.queue)
        try:
            _, address, _ = launch(app, options)
        except OSError as error:
            raise UserError(
                f"--port {options.port} on {options.host} cannot be used ({error}): choose another, or 0 for any."
            ) from error
        print(f"Cardiff is at {address} until Ctrl-C.", flush=True)
        app.block_thread()


def launch(app: gr.Blocks, options: AppOptions) -> tuple[object, str, str | None]:
    """Start the app in threads of its own; the result of Blocks.launch, whose second part is the address."""
    sans, mono = FONTS
    return app.launch(
        server_name=options.host,
        server_port=options.port or None,
        share=False,
        quiet=True,
        css=CSS,
        theme=gr.themes.Default(font=sans, font_mono=mono),
        footer_links=[],
        ssr_mode=False,
        prevent_thread_lock=True,
    )
