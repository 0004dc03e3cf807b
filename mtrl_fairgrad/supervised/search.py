"""Which α suits a benchmark: the search of the paper's §5.4, as `compare=search`.

Which α are tried, `mtrl_fairgrad.config.alpha_grid` says.

The best has the lowest Δm% of the validation data, mean over seeds; test data are reported and
decide nothing. Δm% refers to the paper's single-task row where there is one, so that no single-task
networks need training, and otherwise to fits of each task alone. Every fit has its folder and is
never done twice: a search goes on where it was stopped.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtrl_fairgrad.analysis.statistics import Estimate, over_seeds
from mtrl_fairgrad.config.alpha_grid import best_alpha, next_alphas
from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.compare import FitRunner, alpha_spec, single_task_specs
from mtrl_fairgrad.supervised.result_table import ResultRow, ResultTable, delta_m_or_none
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.text_tables import csv_text, text_table

SPLITS = ("validation", "metrics")
"""Parts of an result: of the validation and of the test data."""


@dataclass
class Findings:
    """What is known so far."""

    benchmark: Benchmark
    single: ResultRow | None = None
    """Fits of each task alone, where the benchmark has no baseline."""
    rows: dict[float, ResultRow | None] = field(default_factory=dict)
    """α → its fits, None for one whose loss stopped being a number."""

    def baseline(self, split: str) -> Mapping[str, float]:
        """Metric → what Δm% refers to.

        Raises:
            ConfigError: a single-task result that allows no Δm%.
        """
        if self.single is None:
            assert self.benchmark.baseline is not None
            return self.benchmark.baseline
        values = self.single.mean(split)
        wrong = [name for name, value in values.items() if not (math.isfinite(value) and value > 0)]
        if wrong:
            raise ConfigError(
                f"the single-task fits have {wrong[0]}={values[wrong[0]]:g}, but Δm% is relative "
                "to a number above 0: train for more epochs."
            )
        return values

    def change(self, alpha: float, split: str) -> Estimate:
        """Δm% over seeds, infinite for an α that has none."""
        row = self.rows[alpha]
        parts = [] if row is None else [getattr(result, split) for result in row.results]
        found = delta_m_or_none(parts, self.baseline(split), self.benchmark) if parts else None
        return over_seeds([math.inf] if found is None else found, 0)

    def scores(self) -> dict[float, float]:
        """α → Δm% of the validation data."""
        return {alpha: float(self.change(alpha, "validation").mean) for alpha in self.rows}

    def table(self) -> ResultTable:
        """All fits with their test metrics, by α."""
        rows = [self.rows[alpha] for alpha in sorted(self.rows)]
        return ResultTable(
            self.benchmark, tuple(row for row in (self.single, *rows) if row is not None)
        )

    def csv(self) -> str:
        """A line per α: Δm% of both parts, empty where there is none, and a 1 for the best so far."""
        columns = [
            f"{part}delta_m{what}" for part in ("validation_", "") for what in ("", "_stderr")
        ]
        lines: list[list[object]] = [["alpha", "seeds", *columns, "best"]]
        best = best_alpha(self.scores()) if self.rows else None
        for alpha in sorted(self.rows):
            row = self.rows[alpha]
            numbers = [float(number) for split in SPLITS for number in self.change(alpha, split)]
            cells = [number if math.isfinite(number) else "" for number in numbers]
            lines.append(
                [alpha, 0 if row is None else len(row.results), *cells, int(alpha == best)]
            )
        return csv_text(lines)

    def text(self) -> str:
        """The table by α, the best marked, and what its numbers mean."""
        best = best_alpha(self.scores())
        lines = [["α", "validation Δm% ↓", "test Δm% ↓", ""]]
        for alpha in sorted(self.rows):
            found = [_value(self.change(alpha, split)) for split in SPLITS]
            lines.append([f"{alpha:.10g}", *found, "best" if alpha == best else "    "])
        return "\n".join([*(line.rstrip() for line in text_table(lines)), "", *self._notes()])

    def _notes(self) -> list[str]:
        reference = (
            "the paper's single-task row"
            if self.single is None
            else "the single-task fits of this folder"
        )
        notes = [f"Δm% is relative to {reference}."]
        rows = [row for row in self.rows.values() if row is not None]
        if any(len(row.results) > 1 for row in rows):
            notes.append("±: one standard error over seeds.")
        if all(result.metrics == result.validation for row in rows for result in row.results):
            notes.append(
                "Validation and test data are the same here, so the test numbers of the best are "
                "optimistic."
            )
        return notes

    def verdict(self, words: Sequence[str]) -> str:
        """The α that was found and the command that trains with it, given the words of the search's
        own.
        """
        best = best_alpha(self.scores())
        kept = [
            word
            for word in words
            if not word.lstrip("+").startswith(("compare=", "search.", "run_dir="))
        ]
        command = shlex.join(
            ["python", "-m", "mtrl_fairgrad.supervised", *kept, f"alpha={best:.10g}"]
        )
        return f"α={best:.10g} has the lowest validation Δm%, {_value(self.change(best, 'validation'))}: {command}"


def search(fits: FitRunner) -> Findings:
    """Fit what the search asks for; search.csv and table.csv of the folder are written anew after
    every α.

    Raises:
        TrainingFault: no α of the first round has a result.
        ConfigError, DataError: as `fit`.
    """
    config, benchmark = fits.config, fits.benchmark
    findings = Findings(benchmark)
    if benchmark.baseline is None:
        findings.single = next(fits.rows(single_task_specs(len(benchmark.tasks))))
        for split in SPLITS:
            findings.baseline(split)
    while todo := next_alphas(findings.scores(), config.search):
        alpha = todo[0]
        findings.rows[alpha] = _tried(fits, alpha)
        write_atomic(fits.folder / "table.csv", findings.table().csv().encode())
        write_atomic(fits.folder / "search.csv", findings.csv().encode())
        if config.progress:
            print(
                f"α={alpha:.10g}: validation Δm% {_value(findings.change(alpha, 'validation'))}",
                flush=True,
            )
        if len(findings.rows) == len(config.search.coarse) and not any(
            map(math.isfinite, findings.scores().values())
        ):
            raise TrainingFault(
                f"no α of search.coarse={config.search.coarse} has a result: try others, or a "
                "smaller learning_rate."
            )
    return findings


def _tried(fits: FitRunner, alpha: float) -> ResultRow | None:
    """The fits of one α; None, with a word why, if a loss stopped being a number: other α may well
    do better.
    """
    try:
        return next(fits.rows([alpha_spec(fits.config.method, alpha, fits.config.loss_alpha)]))
    except TrainingFault as fault:
        print(f"α={alpha:.10g} is out: {fault}", file=sys.stderr)
        return None


def _value(change: Estimate) -> str:
    if not np.isfinite(change.mean):
        return "–"
    return f"{change.mean:.2f}" + ("" if np.isnan(change.stderr) else f" ± {change.stderr:.2f}")
