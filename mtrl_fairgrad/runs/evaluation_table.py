"""Rows of a run's `evaluations.csv`, in the current format and in that of version 0.2 and older.

Older tables have a single column `return`. Meta-World's evaluation episodes then ended at their
first success, so there it holds what is `return_until_success` now; other suites' episodes never
ended early, so there it holds the whole return. A table keeps the format that it was begun with.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from mtrl_fairgrad.utils.text_tables import csv_text

COLUMNS = (*("env_steps", "seed", "task", "episodes", "success", "return", "return_until_success"),)
OLDER_COLUMNS = COLUMNS[:-1]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one task and seed, after `env_steps` transitions of that task."""

    env_steps: int
    seed: int
    task: str
    episodes: int
    success: float
    """Rate over `episodes`, in [0, 1]."""
    return_: float | None
    """Mean undiscounted return of a whole episode; None if episodes ended at their success."""
    return_until_success: float | None = None
    """Mean undiscounted return up to the first successful step, or of the whole episode without
    one; None if it was not recorded.
    """

    @property
    def returns(self) -> tuple[float | None, float | None]:
        """`return` and `return_until_success`."""
        return self.return_, self.return_until_success


@dataclass(frozen=True)
class Format:
    """How the rows of a table are written.

    Args:
        older: whether the table has the single column `return` of older versions.
        stops: whether that column counts up to the first success.
    """

    older: bool = False
    stops: bool = False

    @classmethod
    def of(cls, header: str, stops: bool) -> Self | None:
        """Return the format of a table with this first line; None if there is no such format."""
        formats = {",".join(COLUMNS): cls(), ",".join(OLDER_COLUMNS): cls(older=True, stops=stops)}
        return formats.get(header)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return OLDER_COLUMNS if self.older else COLUMNS

    @property
    def header(self) -> bytes:
        """The first line of a table."""
        return csv_text([self.columns]).encode()

    def encode(self, evaluations: Iterable[Evaluation]) -> bytes:
        """Encode rows."""
        return csv_text(map(self._cells, evaluations)).encode()

    def _cells(self, row: Evaluation) -> tuple[object, ...]:
        first = (row.env_steps, row.seed, row.task, row.episodes, row.success)
        whole, until_success = row.returns
        if not self.older:
            return (*first, whole, until_success)
        return (*first, until_success if self.stops else whole)

    def decode(self, line: str) -> Evaluation:
        """Decode a row.

        Raises:
            ValueError: it is not one, or its success is not a rate.
        """
        [[env_steps, seed, task, episodes, success, *rest]] = csv.reader([line])
        returns = [float(value) if value else None for value in rest]
        if len(rest) != len(self.columns) - 5 or not 0 <= float(success) <= 1:
            raise ValueError(line)
        if self.older:
            returns = [None, *returns] if self.stops else [*returns, None]
        return Evaluation(int(env_steps), int(seed), task, int(episodes), float(success), *returns)


def known(value: float) -> float | None:
    """Return a return as a row holds it: None for NaN, which stands for an unknown one."""
    return None if math.isnan(value) else value
