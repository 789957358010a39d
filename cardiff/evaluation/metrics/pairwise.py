"""Squared distances of every pair of features, and the blocks in which such matrices are computed."""

from collections.abc import Iterable

import numpy as np

from cardiff.progress import shown

BLOCK = 2**25
"""Numbers in one block of a matrix that would not fit as a whole: 256 MB."""


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """‖x − y‖² of every pair in float64; (N, M)."""
    center = second.mean(0, dtype=np.float64)
    first, second = first - center, second - center
    norms, its_norms = (first**2).sum(1), (second**2).sum(1)
    found = first @ second.T
    found *= -2
    found += norms[:, None]
    found += its_norms
    # Of near images the difference of large numbers leaves only rounding, so those are computed directly.
    near = np.argwhere(found < 1e-7 * norms[:, None])
    for rows in blocks(len(near), first.shape[1]):
        i, j = near[rows].T
        found[i, j] = ((first[i] - second[j]) ** 2).sum(1)
    return found


def blocks(count: int, width: int, what: str | None = None) -> Iterable[slice]:
    """Ranges of rows that make blocks of at most BLOCK numbers; with the name of the computation, its progress."""
    size = max(BLOCK // width, 1)
    blocks = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    return blocks if what is None else shown(blocks, what)
