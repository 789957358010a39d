"""A noise schedule from a function of one's own, ᾱ(t)."""

import importlib.util
import inspect
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import common_arguments, stand_in

if TYPE_CHECKING:
    from .scheduling_base import NoiseSchedule


def schedule_from_function(function: Callable[..., np.ndarray], name: str | None = None) -> "type[NoiseSchedule]":
    """The schedule with ᾱ = function(t, **parameters).

    Args:
        function: Takes the times 1/T, 2/T, …, 1 as float64 (T,) and returns ᾱ there. Its other parameters become
            arguments of the schedule, with their types, defaults and documentation.
        name: What the schedule is called in messages; the function's name by default.

    Raises:
        ValueError: Parameters that a schedule cannot have.
    """
    from .scheduling_base import NoiseSchedule, times  # here: the options of a function are read without diffusers

    name = name or function.__name__
    signature = _alphas_bar_signature(function, name)

    def alphas_bar(num_train_timesteps: int, **parameters: Any) -> np.ndarray:
        try:
            return np.asarray(function(times(num_train_timesteps), **parameters), dtype=np.float64)
        except Exception as error:
            raise ValueError(f"{name}: the function fails with {type(error).__name__}: {error}") from error

    setattr(alphas_bar, "__signature__", signature)  # noqa: B010
    return type(name, (NoiseSchedule,), {"alphas_bar": staticmethod(alphas_bar), "__doc__": inspect.getdoc(function)})


def stand_in_of_function(function: Callable[..., np.ndarray]) -> type:
    """The stand-in of the function's schedule for a parser of options: see arguments.py.

    Raises:
        ValueError: Parameters that a schedule cannot have.
    """
    name = function.__name__
    return stand_in(name, _alphas_bar_signature(function, name), inspect.getdoc(function))


def _alphas_bar_signature(function: Callable[..., np.ndarray], name: str) -> inspect.Signature:
    """The signature with the number of timesteps in the place of the times, and a type for each parameter."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    own = parameters[1:]
    if not parameters or parameters[0].kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        raise ValueError(f"{name}: the function must take the times t as its first parameter.")
    taken = inspect.signature(common_arguments).parameters
    for parameter in own:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) or parameter.name in taken:
            raise ValueError(
                f"{name}: the function's parameter {parameter} must be an ordinary parameter with another name than "
                f"{', '.join(taken)}, which every schedule has."
            )

    steps = inspect.Parameter("num_train_timesteps", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [p.replace(kind=p.POSITIONAL_OR_KEYWORD, annotation=_type_of(p)) for p in own]
    own.sort(key=lambda p: p.default is not p.empty)  # as a signature must be; they are always given by name
    return inspect.Signature([steps, *own])


def load_function(path: str, name: str) -> Callable:
    """The function of that name in a Python file.

    Raises:
        ValueError: There is no such file or function, or the file cannot be imported.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path} to take the function {name} from.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        raise ValueError(f"{path} has no function {name!r}.")
    return function


def _type_of(parameter: inspect.Parameter) -> Any:
    """The parameter's type, which the command line needs: as annotated, else that of its default."""
    if parameter.annotation is not parameter.empty or parameter.default in (parameter.empty, None):
        return parameter.annotation
    return type(parameter.default)
