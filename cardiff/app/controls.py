"""The controls by which a visitor chooses what to draw, shared by the tabs."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import gradio as gr

from cardiff.app.noise import SCHEDULES
from cardiff.app.settings import (
    AUTO,
    CFG_PLUS_PLUS,
    CLASSIFIER,
    INTERVAL,
    KINDS,
    NONE,
    OWN_STEPS,
    PLAIN,
    RESCALED,
    THRESHOLD,
    Limits,
    Settings,
    quoted,
)

SOLVERS = [
    ("DPM-Solver++", "dpm"),
    ("UniPC", "unipc"),
    ("DDIM", "ddim"),
    ("DDPM", "ddpm"),
    ("Euler", "euler"),
]
SCALED = (PLAIN, INTERVAL, RESCALED, THRESHOLD, CFG_PLUS_PLUS, AUTO)
"""Kinds of guidance with a guidance_scale."""
FIRST = 5
"""Classes chosen at the start, of a model with many."""
MANY = 12


def shown_image(caption: str, elem_id: str) -> gr.Image:
    """A picture that the app shows, with its caption above it, where it hides nothing."""
    gr.Markdown(caption)
    return gr.Image(
        label=caption,
        show_label=False,
        type="filepath",
        format="png",
        interactive=False,
        elem_id=elem_id,
        buttons=["download", "fullscreen"],  # and not "share", which would send it to a public site
    )


def shown_command(label: str, elem_id: str) -> gr.Code:
    """A command to copy."""
    return gr.Code(label=label, language="shell", wrap_lines=True, lines=2, max_lines=4, elem_id=elem_id)


class What:
    """What is drawn: model, classes, number and seed."""

    def __init__(self, limits: Limits, columns: int):
        first = next(iter(limits.models))
        names = list(limits.models[first])
        self.model = gr.Dropdown(list(limits.models), value=first, label="Model", interactive=True)
        self.labels = gr.Dropdown(
            names,
            value=names[: FIRST if len(names) > MANY else MANY],
            multiselect=True,
            label="Classes",
            info="Type to search; none means all.",
            interactive=True,
            visible=bool(names),
        )
        self.mixture = gr.Textbox(
            label="A mixture of classes", placeholder=_example(names), lines=1, visible=bool(names)
        )
        self.columns = gr.Slider(1, 16, value=columns, step=1, label="Images of each class")
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)

        def choose(model: str) -> tuple[Any, Any, Any]:
            names = list(limits.models.get(model, ()))
            chosen = names[: FIRST if len(names) > MANY else MANY]
            return (
                gr.Dropdown(choices=names, value=chosen, visible=bool(names)),
                gr.Textbox(value="", placeholder=_example(names), visible=bool(names)),
                gr.Slider(label="Images of each class" if names else "Images"),
            )

        self.model.change(choose, self.model, [self.labels, self.mixture, self.columns], show_progress="hidden")

    @property
    def components(self) -> dict[str, Any]:
        """Controls by the name of the setting."""
        return {name: getattr(self, name) for name in ("model", "labels", "mixture", "columns", "seed")}


class How:
    """How it is drawn: guidance and solver."""

    def __init__(self, limits: Limits, kind: str = NONE, scale: float = 2.0):
        kinds = [k for k in KINDS if k != CLASSIFIER or limits.classifier]
        self.kind = gr.Dropdown(kinds, value=kind, label="Guidance", interactive=True)
        self.guidance_scale = gr.Slider(
            0, 10, value=scale, step=0.1, label="Guidance scale w", visible=kind in SCALED,
            info="0: without the label, 1: the label alone, more: towards what is typical of the class.",
        )  # fmt: skip
        self.low = gr.Slider(-10, 10, value=-1, step=0.5, label="From log-SNR", visible=kind == INTERVAL)
        self.high = gr.Slider(-10, 10, value=2, step=0.5, label="To log-SNR", visible=kind == INTERVAL)
        self.rescale = gr.Slider(0, 1, value=0.7, step=0.05, label="Rescale φ", visible=kind == RESCALED)
        self.quantile = gr.Slider(0.9, 1, value=0.995, step=0.001, label="Quantile of |x̂₀|", visible=kind == THRESHOLD)
        self.worse = gr.Dropdown(
            list(limits.models),
            value=list(limits.models)[-1],
            label="The worse model",
            interactive=True,
            visible=kind == AUTO,
        )
        self.classifier_scale = gr.Slider(
            0, 10, value=1, step=0.1, label="Scale of the classifier's gradient", visible=kind == CLASSIFIER
        )
        with gr.Accordion("Solver", open=True):
            self.solver = gr.Dropdown(SOLVERS, value="dpm", label="Solver", interactive=True)
            self.steps = gr.Slider(1, limits.max_steps, value=min(20, limits.max_steps), step=1, label="Steps")
            self.steps_of = gr.Dropdown(
                [OWN_STEPS, *SCHEDULES], value=OWN_STEPS, label="At the noise levels of", interactive=True
            )

        shown = {
            "guidance_scale": SCALED,
            "low": (INTERVAL,),
            "high": (INTERVAL,),
            "rescale": (RESCALED,),
            "quantile": (THRESHOLD,),
            "worse": (AUTO,),
            "classifier_scale": (CLASSIFIER,),
        }

        def show(kind: str) -> list[Any]:
            updates: list[Any] = [gr.update(visible=kind in kinds) for kinds in shown.values()]
            if kind == CFG_PLUS_PLUS:  # w lies between 0 and 1
                updates[0] = gr.Slider(visible=True, maximum=1, value=0.6)
            elif kind in SCALED:
                updates[0] = gr.Slider(visible=True, maximum=10)
            return updates

        self.kind.change(show, self.kind, [getattr(self, name) for name in shown], show_progress="hidden")

    @property
    def components(self) -> dict[str, Any]:
        """Controls by the name of the setting."""
        names = [field.name for field in fields(Settings)]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


def settings_of(names: Sequence[str], values: Sequence[Any]) -> Settings:
    """The settings from the values of the controls with these names."""
    given = dict(zip(names, values))
    for name in ("columns", "seed", "steps"):
        given[name] = int(given[name] or 0)
    return Settings(**{**given, "labels": tuple(given["labels"] or ())})


def _example(names: Sequence[str]) -> str:
    """A mixture of the first two classes."""
    return f"0.5*{quoted(names[0])}+0.5*{quoted(names[1])}" if len(names) > 1 else ""
