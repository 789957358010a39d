"""Cardiff's version and, in a checkout, its commit."""

import subprocess
from functools import cache

import cardiff
from cardiff.layout import IS_CHECKOUT, TOP


@cache
def cardiff_version() -> str:
    """The version, such as 0.2.0; in a checkout 0.2.0+g00dc4a9f1b2c, with .modified appended if files have changed."""
    if not IS_CHECKOUT or not (TOP / ".git").exists():
        return cardiff.__version__
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):  # no git, or the folder is another user's
        return cardiff.__version__
    return f"{cardiff.__version__}+g{commit}{'.modified' if changed else ''}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(TOP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
