"""Entries of the metrics log: what one holds, and the names that are logged and reported."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from mtrl_fairgrad.utils.validation import MAX_COUNT, MAX_NAME

EVENT_FILES = "events.out.tfevents.*"
"""Pattern of the TensorBoard event files."""
SPEED = "speed/updates_per_second"
WORKERS_REPLACED = "workers/replaced"
WALL_SECONDS = "wall_seconds"
REPORTED = re.compile(
    rf"{SPEED}|{WORKERS_REPLACED}"
    r"|\w+/(cosine/(mean|share_negative)|min_progress|residual"
    r"|(weights|task_gradient_norm|signal|worsened)/.+)"
)
"""Names that a report shows."""
LOGGED = re.compile(rf"{REPORTED.pattern}|temperature/.+|critic/value/.+")
"""Names that `MetricsLog` writes: those of a report, and some for diagnosis."""
LARGEST = 1e70
"""Largest finite value; single precision ends at 3e38."""


class Entry(NamedTuple):
    """A line of the log."""

    env_steps: int
    name: str
    value: float

    @property
    def is_sound(self) -> bool:
        """Whether training writes such an entry: times and counters are finite.

        Other values may be infinite or NaN, but no finite one overflows when it is squared.
        """
        if not 0 <= self.env_steps <= MAX_COUNT or len(self.name) > 2 * MAX_NAME:
            return False
        if self.name in (WALL_SECONDS, WORKERS_REPLACED):
            return 0 <= self.value <= MAX_COUNT
        return not math.isfinite(self.value) or abs(self.value) <= LARGEST
