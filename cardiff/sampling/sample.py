"""sample.py: draws images from a trained model into a folder, a labelled grid or an animation."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cardiff.distributed import print_once, this_process
from cardiff.outputs import check_file, check_folder
from cardiff.sampling.animation import ENDINGS, draw_animation
from cardiff.sampling.draw import make_plan
from cardiff.sampling.film import FILM
from cardiff.sampling.folder import fill_folder
from cardiff.sampling.grid import draw_grid
from cardiff.sampling.options import SampleOptions


def run(options: SampleOptions, progress: Callable[[int], object] | None = None) -> Path:
    """Draw images as the options say, and return the folder or file that was written.

    Args:
        options: What to draw, and where to write it.
        progress: Called with the number of this process's images after each batch, instead of a progress bar.

    Raises:
        UserError: An option does not fit the model, or the output folder holds images of other options.
        OSError: The disk is full or not writable; what is written stays, and the same call goes on.
        ModuleNotFoundError: The animation is a film, and PyAV is missing.
    """
    if options.output is not None:
        check_folder("--output", options.output)
    if options.grid is not None:
        check_file("--grid", options.grid, [".png"])
    if options.animation is not None:
        check_file("--animation", options.animation, ENDINGS)
        if options.animation.lower().endswith(FILM):
            import_module("av")  # whose absence is to be said before anything is drawn
    plan = make_plan(options, progress)
    state = this_process()
    if plan.timesteps is not None and len(plan.timesteps) < options.steps:
        print_once(
            f"{options.steps} steps of {options.timesteps_from} fall on {len(plan.timesteps)} timesteps of the model: "
            f"{len(plan.timesteps)} steps are taken."
        )
    if options.grid is not None:
        return draw_grid(plan, Path(options.grid), state)
    if options.animation is not None:
        return draw_animation(plan, Path(options.animation), state)
    assert options.output is not None  # make_plan has checked that one of the three is given
    return fill_folder(plan, Path(options.output), state)
