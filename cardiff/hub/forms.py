"""Whether values that were read from JSON are of the types that annotations name."""

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin


def fits(value: object, hint: Any) -> bool:
    """Whether a value that was read from JSON is of the type of an annotation; of one that is unknown it always is."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value if inner)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint in (None, types.NoneType):
        return value is None
    if hint is bool:  # also where a number was meant, as in one of diffusers' own annotations
        return isinstance(value, bool | int | float)
    if hint is int:
        return type(value) is int
    if hint is float:
        return type(value) in (int, float)
    return isinstance(value, hint) if hint in (str, dict, list) else hint is Any or not inspect.isclass(hint)


def in_words(hint: Any) -> str:
    """An annotation for people."""
    text = hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint)
    return text.replace("typing.", "").replace("collections.abc.", "").replace("numpy.ndarray | ", "")
