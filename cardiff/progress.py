"""Progress of the computations of a measurement, which can take minutes on large sets."""

import os
from collections.abc import Iterable

from tqdm.auto import tqdm

DELAY = 2.0
"""Seconds before a bar appears: what is done by then needs none."""


def shown(parts: Iterable, what: str, total: int | None = None, delay: float | None = None) -> tqdm:
    """The parts of a computation, with a bar from the main process while it lasts."""
    main = os.environ.get("RANK", "0") == "0"
    return tqdm(parts, desc=what, total=total, delay=DELAY if delay is None else delay, leave=False, disable=not main)
