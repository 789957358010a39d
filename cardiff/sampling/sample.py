"""sample.py: images of a trained model, in a folder or in a labelled grid."""

from collections.abc import Callable
from pathlib import Path

from cardiff.distributed import print_once, this_process
from cardiff.sampling.draw import make_plan
from cardiff.sampling.folder import fill_folder
from cardiff.sampling.grid import draw_grid
from cardiff.sampling.options import SampleOptions


def run(options: SampleOptions, progress: Callable[[int], object] | None = None) -> Path:
    """Carry the options out and return the folder or file that was made.

    Args:
        options: What to draw, and where to.
        progress: Called with the number of this process's images after each pass, in the place of a progress bar.

    Raises:
        UserError: An option that does not fit the model, or an output folder of other options.
    """
    plan = make_plan(options, progress)
    state = this_process()
    if plan.timesteps is not None and len(plan.timesteps) < options.steps:
        print_once(
            f"{options.steps} steps of {options.timesteps_from} fall on {len(plan.timesteps)} timesteps of the model: "
            "so many steps are taken."
        )
    if options.grid is not None:
        return draw_grid(plan, Path(options.grid), state)
    assert options.output is not None  # one of the two, or there would be no plan
    return fill_folder(plan, Path(options.output), state)
