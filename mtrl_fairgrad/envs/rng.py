"""Random streams of one task of one seed, independent of other tasks and seeds."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROLES = {"train": 0, "eval": 1, "goals": 2, "frozen": 3, "resets": 4}
"""Purpose of a stream: training and evaluation episodes, which goals an evaluation plays, the
frozen goal, the reset seeds of an evaluation.
"""


def stream(seed: int, task: str, role: str, *more: int) -> np.random.Generator:
    """Return the generator of (seed, task, role, *more*), independent of all others."""
    return np.random.default_rng(
        np.random.SeedSequence([seed, zlib.crc32(task.encode()), ROLES[role], *more])
    )


class StreamTracker:
    """Last known state of the random streams of N rows, and the goals drawn since.

    Streams of lost sub-environments continue from there, and so do those of the other rows, which
    may have advanced further than the learner saw. No goal is drawn twice, and it makes no
    difference when within a step a worker was lost.
    """

    def __init__(self, rows: int) -> None:
        self._states: Sequence[dict[str, Any] | None] = [None] * rows
        self._drawn = np.zeros(rows, np.int64)

    def record_states(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store the saved states of all rows."""
        self._states = [row["generator"] for row in rows]
        self._drawn[:] = 0

    def count_draws(self, rows: NDArray[np.intp], drawn: NDArray[np.bool_] | bool) -> None:
        """Count one goal for each of `rows` [M] that has `drawn` [M] one."""
        self._drawn[rows] += drawn

    def positions(self) -> dict[int, tuple[dict[str, Any] | None, int]]:
        """Map row to its stream's last known state (None: initial) and the goals drawn since."""
        return dict(enumerate(zip(self._states, self._drawn.tolist(), strict=True)))
