"""The constructor of a schedule, put together from its function ᾱ: what may be asked for without building anything.

Nothing here imports diffusers, which takes seconds: the command line reads a schedule's options from its file.
"""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple


def common_arguments(
    num_train_timesteps: int = 1000,
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
    clip_sample: bool = True,
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
    input_scale: float = 1.0,
    rescale_betas_zero_snr: bool = False,
    trained_betas: list[float] | None = None,
) -> None:
    """The constructor arguments of every schedule.

    Args:
        num_train_timesteps: Number of noise levels T that the model is trained on.
        prediction_type: What the network predicts: the noise, the velocity, or the clean image.
        variance_type: Variance of a DDPM step: its lower (fixed_small) or upper (fixed_large) bound.
        clip_sample: Clip the predicted clean image to [-1, 1] while sampling.
        timestep_spacing: How fewer than T sampling steps are spread; trailing starts at the noisiest level.
        input_scale: Factor b on the image before noise is added (arXiv 2301.10972); it adds 2·ln b to log-SNR.
        rescale_betas_zero_snr: Rescale ᾱ so that the last step is pure noise (arXiv 2305.08891, algorithm 1).
        trained_betas: Ignored, since the betas follow from the other arguments; a converted config carries it.
    """


def spectrum_arguments(octave_powers: None = None, resolution: None = None, mean_square: None = None) -> None:
    """The arguments that describe a data set's spectrum: documented here for every schedule whose function has them.

    Args:
        octave_powers: Mean variance of a mode with pixels in [-1, 1], one row per octave from the image's mean
            upwards, one column per colour component; analyze_schedules.py measures it. Null is a model of natural
            images, 1/f².
        resolution: Height and width in pixels of the images that octave_powers describes.
        mean_square: Mean square of the mean image's values; it decides how much of it a last step leaks.
    """


class Constructor(NamedTuple):
    """What a schedule is built from."""

    own: list[str]
    """Arguments of its function, without the number of timesteps."""
    signature: inspect.Signature
    """Of `__init__`."""
    doc: str
    """Of `__init__`: what the class says of itself, with all arguments."""


def constructor_of(name: str, alphas_bar: inspect.Signature, doc: str | None) -> Constructor:
    """The constructor that a function ᾱ, `alphas_bar(num_train_timesteps, …)`, gives the schedule of this name."""
    own = [p for p in alphas_bar.parameters.values() if p.name != "num_train_timesteps"]
    common = inspect.signature(common_arguments).parameters.values()
    self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    head, _, documented = inspect.cleandoc(doc or f"ᾱ of {name}.").partition("\nArgs:")
    shared = re.split(r"\n(?=    \w+:)", _args_of(spectrum_arguments))[1:]
    missing = [entry for entry in shared if entry.split(":")[0].strip() in {p.name for p in own}]
    arguments = "\n".join([_args_of(common_arguments), *missing])
    text = f"{head.rstrip()}\n\nArgs:{arguments}{documented}"
    return Constructor([p.name for p in own], inspect.Signature([self_parameter, *own, *common]), text)


def stand_in(name: str, alphas_bar: inspect.Signature, doc: str | None) -> type:
    """A class with the constructor of a schedule, for a parser of options: it builds nothing."""
    _, signature, text = constructor_of(name, alphas_bar, doc)

    def __init__(self: object, **arguments: Any) -> None:
        raise NotImplementedError(f"This is not the schedule {name}, but its arguments.")

    setattr(__init__, "__signature__", signature)  # noqa: B010  no checker knows the attribute
    __init__.__doc__ = text
    return type(f"{name}Arguments", (), {"__init__": __init__, "__doc__": doc})


def read_stand_in(file: Path) -> type:
    """The stand-in of the schedule that a file `scheduling_NAME.py` defines, without importing it.

    Raises:
        ValueError: The file does not hold exactly one class, with a function `alphas_bar`.
        NameError: The function's types or defaults are more than literals and names from typing.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (schedule,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    (function,) = (node for node in schedule.body if isinstance(node, ast.FunctionDef) and node.name == "alphas_bar")
    function.decorator_list, function.returns, function.body = [], None, [ast.Pass()]
    typing = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "typing"]
    found: dict[str, Callable] = {}
    module = ast.fix_missing_locations(ast.Module([*typing, function], []))
    exec(compile(module, str(file), "exec", dont_inherit=True), found)
    return stand_in(schedule.name, inspect.signature(found["alphas_bar"]), ast.get_docstring(schedule))


def _args_of(function: Callable) -> str:
    return (inspect.getdoc(function) or "").partition("\nArgs:")[2].rstrip()
