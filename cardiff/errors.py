"""What a user did wrong, told apart from what the project did wrong."""

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

REPORT = "This is a bug in Cardiff: please report it with the lines above and the command."
"""What follows the traceback of anything that is not a UserError."""

_ROOM = "make room, or name a place on another disk, and run the command again."
_RIGHTS = "change who may read and write there, or name another place."
DISK_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "the disk does not work as it should."),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "something else is in its place."),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "name another."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)."),
}
"""What to do about an error of the operating system; those that are not here are bugs."""


class UserError(ValueError):
    """Something that whoever gave the command can mend, in one sentence that says how.

    It is a ValueError, for callers who catch that; only a UserError is printed without a traceback.
    """


def did_you_mean(name: str, choices: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the nearest of the choices, or what else to do."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else otherwise


def disk_sentence(error: BaseException | None) -> str | None:
    """What an error of a disk or of a file's place means, and what to do about it; None if it is another error."""
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or os.strerror(error.errno)}: {DISK_ERRORS[error.errno]}"


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
