"""Errors that the user can correct, as opposed to bugs."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

REPORT = "This is a bug in Cardiff: please report it with the lines above and the command."
"""Printed after the traceback of a bug."""

LOST_PROCESS = (
    "Another process of this launch has ended or cannot be reached; its own message, if any, says why. Run the same "
    "command again: a training run resumes from its last checkpoint."
)
_ROOM = "free some space, or use another disk, and run the command again."
_RIGHTS = "change the permissions, or choose another place."
DISK_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk or the network connection to it."),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        "remove what is in its place, or choose another place.",
    ),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "choose another name."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)."),
}
"""Remedies for errors of the operating system; other OSErrors are bugs."""


class UserError(ValueError):
    """An error that the user can correct; its message is one sentence that says how.

    It is a ValueError for callers who catch that, but only a UserError is printed without a traceback.
    """


def did_you_mean(name: str, choices: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the nearest choice, or `otherwise` if none is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else otherwise


def disk_sentence(error: BaseException | None) -> str | None:
    """One sentence about a disk or file system error, with a remedy; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or os.strerror(error.errno)}: {DISK_ERRORS[error.errno]}"


def lost_process_sentence(error: BaseException) -> str | None:
    """One sentence about another process of the launch that has ended; None for any other error.

    The process itself says why it ended; those that were exchanging tensors with it get an error of the connection.
    """
    lost = r"(gloo|nccl).*(closed by peer|reset by peer|broken pipe|remote process exited)"
    if not isinstance(error, RuntimeError) or not re.search(lost, str(error), re.DOTALL | re.IGNORECASE):
        return None
    return LOST_PROCESS


@contextmanager
def user_errors(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Convert ValueErrors of the schedules and pipelines, which do not import this package, to UserErrors.

    To be used only around checks of the user's arguments: a ValueError from numpy or torch is a bug.
    """
    try:
        yield
    except UserError:
        raise
    except kind as error:
        raise UserError(str(error)) from error
