"""Progress bars for evaluation, which can take minutes on large data sets."""

import os
from collections.abc import Iterable

from tqdm.auto import tqdm

DELAY = 2.0
"""Seconds before a bar appears; shorter computations have none."""


def shown(parts: Iterable, what: str, total: int | None = None, delay: float | None = None) -> tqdm:
    """Iterate over the parts of a computation with a progress bar, in the main process."""
    main = os.environ.get("RANK", "0") == "0"
    return tqdm(parts, desc=what, total=total, delay=DELAY if delay is None else delay, leave=False, disable=not main)
