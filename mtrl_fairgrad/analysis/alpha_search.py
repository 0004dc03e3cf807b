"""State of a search for FairGrad's α, its table search.csv, and the final command.

`mtrl_fairgrad.config.alpha_grid` chooses the values of α. `mtrl_fairgrad.search` (reinforcement
learning) and `mtrl_fairgrad.supervised.search` train and score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from mtrl_fairgrad.config.alpha_grid import SearchConfig, best_alpha, next_alphas
from mtrl_fairgrad.utils.arguments import command_line
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.text_tables import csv_report

Result = TypeVar("Result")

TIE = 1e-8
"""Smallest difference of scores, which are means of success rates or changes in percent."""


@dataclass
class AlphaSearch(Generic[Result]):
    """Results of a search by α, from which the next values of α follow."""

    options: SearchConfig
    scores_of: Callable[[Mapping[float, Result]], Mapping[float, float]]
    """Results in the order they were recorded → α → score, less is better."""
    columns: Sequence[str]
    """Columns of search.csv between `alpha` and `best`."""
    cells: Callable[[float, Result], Sequence[object]]
    """Returns a line of search.csv, with `alpha` and without the last column."""
    results: dict[float, Result] = field(default_factory=dict[float, Result])

    def next_alphas(self) -> list[float]:
        """Return the α to try next, in order; empty when the search is over.

        If all of the first round are equally good, there is no best whose neighbours to try.
        """
        if self.tied and self.results.keys() >= set(self.options.coarse):
            return []
        return next_alphas(self.scores(), self.options)

    def record(self, results: Mapping[float, Result], folder: Path) -> None:
        """Add results and rewrite search.csv in `folder`."""
        self.results |= results
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Rewrite search.csv in `folder`."""
        write_atomic(folder / "search.csv", self.csv().encode())

    def scores(self) -> Mapping[float, float]:
        """Return α → score, less is better."""
        return self.scores_of(self.results)

    @property
    def tied(self) -> bool:
        """Whether there are several results and all are equally good, so that none is the best."""
        scores = list(self.scores().values())
        return len(scores) > 1 and max(scores) - min(scores) < TIE

    @property
    def best(self) -> float:
        """The best α so far; at least one result is needed."""
        return best_alpha(self.scores())

    def by_alpha(self) -> Iterator[tuple[float, Result, bool]]:
        """Yield α, its result and whether it is the best, by α; of equal ones, none is."""
        if self.results:
            best = None if self.tied else self.best
            for alpha in sorted(self.results):
                yield alpha, self.results[alpha], alpha == best

    def csv(self) -> str:
        """Return the text of search.csv: a line per α, 1 in the last column for the best so far."""
        lines = [
            [*self.cells(alpha, result), int(is_best)] for alpha, result, is_best in self.by_alpha()
        ]
        return csv_report([["alpha", *self.columns, "best"], *lines])

    def command(self, name: str, overrides: Sequence[str]) -> str:
        """Return the command that trains with the best α, by the command of this name."""
        return command_line(name, *overrides, f"alpha={self.best:.10g}")
