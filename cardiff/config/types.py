"""Types of options: precisions, and lists.

A list is 0,1,2 or [0,1,2] or a single value on the command line, and a list in a YAML file. A dataclass declares its
field as one of these; in Python, one that inherits WithLists takes the same forms.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal

from jsonargparse.typing import register_type

from cardiff.errors import UserError

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Precision of a network that is only evaluated; training has Accelerate's own names (train.mixed_precision)."""


class _ByName(type):
    """Metaclass of types that --help shows by name."""

    def __repr__(cls) -> str:
        return cls.__name__


class Floats(list[float], metaclass=_ByName):
    """Numbers; integers become floats."""


class Ints(list[int], metaclass=_ByName):
    """Whole numbers."""


class Names(list[str], metaclass=_ByName):
    """Names, without commas."""


def _read(kind: type[list], convert: Callable[[Any], Any], what: str, value: Any) -> list:
    """Convert a value from the command line or a file to a list.

    Raises:
        UserError: An item is missing or has the wrong type.
    """
    if isinstance(value, str):  # jsonargparse has already parsed one in brackets
        items = [part.strip() for part in value.split(",")]
    else:
        items = list(value) if isinstance(value, list | tuple) else [value]
    try:
        if not items or any(isinstance(item, bool) or item is None or item == "" for item in items):
            raise ValueError(items)
        return kind(map(convert, items))
    except (TypeError, ValueError):
        raise UserError(f"is {value!r}, but must be {what}.") from None


def _whole(item: Any) -> int:
    if not isinstance(item, int | str):
        raise TypeError(item)
    return int(item)


def _name(item: Any) -> str:
    if not isinstance(item, str):
        raise TypeError(item)
    return item


def _register(kind: type[list], convert: Callable[[Any], Any], what: str) -> None:
    def read(value: Any) -> list:
        return _read(kind, convert, what, value)

    _READERS[kind] = read
    register_type(
        kind,
        serializer=list,
        deserializer=read,
        deserializer_exceptions=(),  # a UserError says what is wrong
    )


class WithLists:
    """Base of dataclasses of options: a field of one of these types can be given as on the command line."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type in _READERS and value is not None:
                try:
                    setattr(self, field.name, _READERS[field.type](value))
                except UserError as error:
                    raise UserError(f"{field.name} {error}") from None


_READERS: dict[Any, Callable[[Any], list]] = {}
"""Of each type, how a value becomes a list."""


_register(Floats, float, "a number, or several with commas: 0,1.5,2")
_register(Ints, _whole, "a whole number, or several with commas: 0,1,2")
_register(Names, _name, "a name, or several with commas")
