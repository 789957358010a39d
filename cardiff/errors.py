"""What a user did wrong, told apart from what the project did wrong."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

REPORT = "This is a bug in Cardiff: please report it with the lines above and the command."
"""What follows the traceback of anything that is not a UserError."""


class UserError(ValueError):
    """Something that whoever gave the command can mend, in one sentence that says how.

    It is a ValueError, for callers who catch that; only a UserError is printed without a traceback.
    """


def did_you_mean(name: str, choices: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the nearest of the choices, or what else to do."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else otherwise


@contextmanager
def user_errors(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Take errors of the schedules and pipelines, which know nothing of this package, for the user's.

    Only around what checks the user's arguments: a ValueError from numpy or torch is a bug and keeps its traceback.
    """
    try:
        yield
    except UserError:
        raise
    except kind as error:
        raise UserError(str(error)) from error
