"""Random streams that belong to one task of one seed and to nothing that runs beside it."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROLES = {"train": 0, "eval": 1, "goals": 2, "frozen": 3, "resets": 4}
"""What a stream of one (seed, task) is for: training and evaluation episodes, which goals an
evaluation plays, the one frozen goal, the reset seeds of evaluation."""


def stream(seed: int, task: str, role: str, *more: int) -> np.random.Generator:
    """The generator that belongs to (seed, task, role, *more*) and to nothing else that runs beside
    it.
    """
    return np.random.default_rng(
        np.random.SeedSequence([seed, zlib.crc32(task.encode()), ROLES[role], *more])
    )


class StreamTracker:
    """Where the learner last knew the streams of the episodes of N rows: what it heard, and the
    goals drawn since.

    From there the streams of lost sub-environments go on, and so do those of their neighbours,
    which may have got further than the learner saw: no goal is drawn twice, and when within a step
    a worker was lost makes no difference.
    """

    def __init__(self, rows: int) -> None:
        self._heard: Sequence[dict[str, Any] | None] = [None] * rows
        self._drawn = np.zeros(rows, np.int64)

    def record_states(self, rows: Sequence[dict[str, Any]]) -> None:
        """Remember the saved states of all rows."""
        self._heard = [row["generator"] for row in rows]
        self._drawn[:] = 0

    def count_draws(self, rows: NDArray[np.bool_] | bool = True) -> None:
        """Count a goal for each of `rows` [N]."""
        self._drawn += rows

    def positions(self) -> dict[int, tuple[dict[str, Any] | None, int]]:
        """Row → the stream's state as it was heard of (None: its beginning), and how many goals
        were drawn since.
        """
        return dict(enumerate(zip(self._heard, self._drawn.tolist(), strict=True)))
