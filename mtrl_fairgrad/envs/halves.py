"""Rows of the two halves of the copies, and the union of what their steps return.

Copies of every task and seed form two halves that are stepped in turn: one simulates while the
policy acts for the other. With one copy there is one half, of all rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def half_rows(seeds: int, copies: int, tasks: int) -> list[NDArray[np.intp]]:
    """Return the rows of each half in ascending order, each [S·(E/2)·K]; one half if E is 1.

    The row of seed s, copy e and task k is (s·E + e)·K + k; the first half is of copies below E/2.
    """
    rows = np.arange(seeds * copies * tasks).reshape(seeds, copies, tasks)
    return [part.ravel() for part in np.split(rows, 1 if copies == 1 else 2, axis=1)]


def union(parts: Sequence[Any], rows: Sequence[NDArray[np.intp]]) -> Any:
    """Return arrays of all rows from those of each half; dictionaries and tuples of them alike."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {key: union([part[key] for part in parts], rows) for key in first}
    if isinstance(first, tuple):
        return tuple(union(each, rows) for each in zip(*parts, strict=True))
    whole = np.empty((sum(map(len, rows)), *first.shape[1:]), first.dtype)
    for part, where in zip(parts, rows, strict=True):
        whole[where] = part
    return whole
