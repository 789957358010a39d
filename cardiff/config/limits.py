"""Declarations for the fields of option dataclasses: ranges of numbers, behaviour on resume, and more."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from cardiff.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The valid range of a number; NaN is never valid, and infinity only if allowed."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    infinite: bool = False

    def __contains__(self, number: float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
            # math.isfinite raises for an int that is too large for a float.
            and (isinstance(number, int) or math.isfinite(number) or (self.infinite and math.isinf(number)))
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"lie between {self.least:g} and {self.most:g}"
        parts = [] if self.least is None else [f"{self.least:g} or more"]
        parts += [] if self.above is None else [f"above {self.above:g}"]
        parts += [] if self.most is None else [f"{self.most:g} or less"]
        parts += [] if self.below is None else [f"below {self.below:g}"]
        return f"be {' and '.join(parts)}" if parts else "be a number"


OnResume = Literal["refuse", "report", "ignore"]
"""What a resumed run does if an option differs from the checkpoint's."""


@dataclass(frozen=True)
class Option:
    """What is declared for a field of a dataclass besides its type and default."""

    limits: Limits = Limits()
    of_data_set: bool = False
    """Whether it describes the data set, and so is dropped if a later file or option names another one."""
    on_resume: OnResume = "report"

    @classmethod
    def of(cls, field: dataclasses.Field) -> "Option":
        """The declaration of a field."""
        return field.metadata.get("option", cls())


def option(default: Any, *, of_data_set: bool = False, on_resume: OnResume = "report", **limits: Any) -> Any:
    """A field of a dataclass with this default, these Limits and the other declarations of an Option.

    The limits of a list apply to every number in it.
    """
    how = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return dataclasses.field(**how, metadata={"option": Option(Limits(**limits), of_data_set, on_resume)})


def limited(default: Any, **limits: Any) -> Any:
    """A field of a dataclass with this default and these Limits; for a list they apply to every number in it."""
    return option(default, **limits)


def check_limits(options: Any, prefix: str) -> None:
    """Check the ranges of the numbers in a dataclass.

    Args:
        options: The dataclass. Numbers without declared limits must be finite.
        prefix: Prefix of the fields' names as the user gives them, such as `train.` or `--`.

    Raises:
        UserError: A number is out of range; the message names the first.
    """
    for field in fields(options):
        limits, value = Option.of(field).limits, getattr(options, field.name)
        wrong = next((number for number in _numbers(value) if number not in limits), None)
        if wrong is None:
            continue
        must = "each of them must" if isinstance(value, list) else "must"
        # If the number is within the limits, the only problem is that it is infinite.
        what = (
            "be finite"
            if isinstance(wrong, float) and math.isinf(wrong) and wrong in dataclasses.replace(limits, infinite=True)
            else limits
        )
        raise UserError(f"{prefix}{field.name} is {value}, but {must} {what}.")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value or in a (nested) list."""
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
