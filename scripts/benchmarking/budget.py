"""A budget of time: work that does not fit any more is left out and named."""

from __future__ import annotations

import time
from collections.abc import Callable

from .timing import Clock

LEAST_CORRECTION = 0.6
"""Lower limit of the factor that corrects estimates: one kind of work may be fast, another not."""


class Budget:
    """Seconds that may be spent on pieces of work, which come in the order of their importance.

    Estimates are corrected by how long the work before took.

    Args:
        seconds: time in all, from now.
        clock: seconds since an arbitrary time.
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._estimated = self._taken = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - self._clock()

    def expected(self, estimate: float) -> float:
        """Return an estimate, corrected by the work before."""
        slower = self._taken / self._estimated if self._estimated else 1.0
        return estimate * max(LEAST_CORRECTION, slower)

    def spend(self, estimate: float, work: Callable[[], None]) -> bool:
        """Do the work if it is expected to fit; return whether it was done."""
        if self.expected(estimate) > self.left:
            return False
        started = self._clock()
        work()
        self._taken += self._clock() - started
        self._estimated += estimate
        return True
