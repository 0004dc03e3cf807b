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
from mtrl_fairgrad.utils.validation import MAX_COUNT, MAX_NAME, MAX_SEED

KEYS = ("env_steps", "seed", "task", "episodes", "success")
COLUMNS = (*KEYS, "return", "return_until_success")
OLDER_COLUMNS = (*KEYS, "return")


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
        columns: names of the columns.
        returns: the fields of `Evaluation` that stand in the columns after `KEYS`.
    """

    columns: tuple[str, ...] = COLUMNS
    returns: tuple[str, ...] = ("return_", "return_until_success")

    @classmethod
    def of(cls, header: str, stops: bool) -> Self | None:
        """Return the format of a table, None if there is no such format.

        Args:
            header: the first line.
            stops: whether the single `return` of an older table counts up to the first success.
        """
        older = cls(OLDER_COLUMNS, ("return_until_success" if stops else "return_",))
        return {",".join(format.columns): format for format in (cls(), older)}.get(header)

    @property
    def header(self) -> bytes:
        """The first line of a table."""
        return csv_text([self.columns]).encode()

    def encode(self, evaluations: Iterable[Evaluation]) -> bytes:
        """Encode rows."""
        return csv_text(map(self._cells, evaluations)).encode()

    def _cells(self, row: Evaluation) -> tuple[object, ...]:
        return tuple(getattr(row, name) for name in (*KEYS, *self.returns))

    def decode(self, line: str) -> Evaluation:
        """Decode a row.

        Raises:
            ValueError: it is not one: a number is out of range, or the success is not a rate.
        """
        try:
            [[env_steps, seed, task, episodes, success, *rest]] = csv.reader([line])
        except csv.Error as error:
            raise ValueError(str(error)) from None
        valid = (
            len(rest) == len(self.returns)
            and 0 <= int(env_steps) <= MAX_COUNT
            and 0 <= int(seed) <= MAX_SEED
            and len(task) <= MAX_NAME
            and 0 <= int(episodes) <= MAX_COUNT
            and 0 <= float(success) <= 1
        )
        if not valid:
            raise ValueError(line)
        returns = {"return_": None} | {
            name: float(value) if value else None
            for name, value in zip(self.returns, rest, strict=True)
        }
        return Evaluation(int(env_steps), int(seed), task, int(episodes), float(success), **returns)


def known(value: float) -> float | None:
    """Return a return as a row holds it: None if it is unknown, which NaN and infinity mean."""
    return value if math.isfinite(value) else None
