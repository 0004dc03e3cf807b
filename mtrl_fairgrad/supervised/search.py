"""`compare=search`: the search of the paper's §5.4 for the best α of a benchmark.

The best α has the lowest Δm% of the validation data, mean over seeds; test data are reported only.
Unless `baselines` says otherwise, Δm% refers to the paper's single-task row where there is one, so
that no single-task networks need training, and otherwise to fits of each task alone. Every fit has
its folder, so an interrupted search resumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtrl_fairgrad.analysis.alpha_search import AlphaSearch
from mtrl_fairgrad.analysis.statistics import Estimate, over_seeds
from mtrl_fairgrad.config.alpha_grid import SearchConfig
from mtrl_fairgrad.supervised.baselines import trains_single_tasks
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.compare import FitRunner, alpha_spec, single_task_specs
from mtrl_fairgrad.supervised.config import TRAIN
from mtrl_fairgrad.supervised.result_table import (
    NONE,
    FailedRow,
    ResultRow,
    ResultTable,
    delta_m_or_none,
)
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.text_tables import text_table
from mtrl_fairgrad.utils.validation import ConfigError

SPLITS = ("validation", "metrics")
"""Attributes of a result: metrics of the validation and of the test data."""


class Findings(AlphaSearch[ResultRow | None]):
    """Results by α; None for an α whose loss became NaN or infinite."""

    def __init__(
        self,
        benchmark: Benchmark,
        options: SearchConfig,
        single: ResultRow | None = None,
        source: str | None = None,
    ) -> None:
        """Make an empty search.

        Args:
            benchmark: the benchmark that is trained.
            options: which α to try.
            single: results of each task alone; None for those that the paper published.
            source: where these come from; None for fits of the search's own folder.
        """
        columns = [
            f"{split}delta_m{suffix}" for split in ("validation_", "") for suffix in ("", "_stderr")
        ]
        super().__init__(options, self._scores, ("seeds", *columns), self._cells)
        self.benchmark = benchmark
        self.single = single
        self.source = source

    def baseline(self, split: str) -> Mapping[str, float]:
        """Return metric → value that Δm% refers to.

        Raises:
            ConfigError: a single-task result is not above 0, so that Δm% is undefined.
        """
        if self.single is None:
            assert self.benchmark.baseline is not None
            return self.benchmark.baseline
        values = self.single.mean(split)
        for name, value in values.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"the single-task fits have {name}={value:g}, but Δm% is relative to a number "
                    "above 0: train for more epochs."
                )
        return values

    def change(self, row: ResultRow | None, split: str) -> Estimate:
        """Return Δm% over seeds, infinite for an α without results."""
        metrics = [] if row is None else [getattr(result, split) for result in row.results]
        change = delta_m_or_none(metrics, self.baseline(split), self.benchmark) if metrics else None
        return over_seeds([math.inf] if change is None else change, 0)

    def table(self) -> ResultTable:
        """Return all fits with their test metrics, by α."""
        rows = [self.single, *(row for _, row, _ in self.by_alpha())]
        return ResultTable(self.benchmark, tuple(row for row in rows if row is not None))

    def text(self) -> str:
        """Return the table by α, the best marked, and notes on what its numbers mean."""
        lines = [["α", "validation Δm% ↓", "test Δm% ↓", ""]]
        for alpha, row, is_best in self.by_alpha():
            changes = [_format(self.change(row, split)) for split in SPLITS]
            lines.append([f"{alpha:.10g}", *changes, "best" if is_best else "    "])
        return "\n".join([*(line.rstrip() for line in text_table(lines)), "", *self._notes()])

    def verdict(self, overrides: Sequence[str]) -> str:
        """Return the best α and the command that trains with it.

        Args:
            overrides: the search's own command line.
        """
        if self.tied:
            return "none is the best: all α have the same validation Δm%."
        words = [
            word
            for word in overrides
            if not word.lstrip("+").startswith(("compare=", "search.", "run_dir="))
        ]
        change = _format(self.change(self.results[self.best], "validation"))
        command = self.command("supervised", words)
        return f"α={self.best:.10g} has the lowest validation Δm%, {change}: {command}"

    def _scores(self, results: Mapping[float, ResultRow | None]) -> dict[float, float]:
        return {alpha: float(self.change(row, "validation").mean) for alpha, row in results.items()}

    def _cells(self, alpha: float, row: ResultRow | None) -> list[object]:
        numbers = [float(number) for split in SPLITS for number in self.change(row, split)]
        cells = [number if math.isfinite(number) else "" for number in numbers]
        return [alpha, 0 if row is None else len(row.results), *cells]

    def _notes(self) -> list[str]:
        reference = (
            "the paper's single-task row"
            if self.single is None
            else f"the single-task results of {self.source or 'this folder'}"
        )
        notes = [f"Δm% is relative to {reference}."]
        rows = [row for row in self.results.values() if row is not None]
        if any(len(row.results) > 1 for row in rows):
            notes.append("±: one standard error over seeds.")
        if all(result.metrics == result.validation for row in rows for result in row.results):
            notes.append(
                "Validation and test data are the same here, so the test numbers of the best are "
                "optimistic."
            )
        return notes


def search(runner: FitRunner) -> Findings:
    """Fit one α after the other; search.csv and table.csv are rewritten after each.

    Raises:
        TrainingFault, ConfigError, DataError: as `searching`.
    """
    findings: Findings | None = None
    for findings in searching(runner):
        findings.write(runner.folder)
        runner.write_table(findings.table())
        if runner.config.progress:
            alpha, row = list(findings.results.items())[-1]
            change = _format(findings.change(row, "validation"))
            print(f"α={alpha:.10g}: validation Δm% {change}", flush=True)
    assert findings is not None  # search.coarse has an α
    return findings


def searching(runner: FitRunner) -> Iterator[Findings]:
    """Fit one α after the other; yield the findings after each, the same object every time.

    Raises:
        TrainingFault: no α of the first round has a result.
        ConfigError, DataError: as `FitRunner.rows`.
    """
    config, benchmark = runner.config, runner.benchmark
    single = runner.given
    if trains_single_tasks(config, benchmark):
        single = next(runner.rows(single_task_specs(len(benchmark.tasks))))
        if isinstance(single, FailedRow):
            raise TrainingFault(f"the single-task fits failed, so Δm% is undefined: {single.fault}")
    source = None if single is None or config.baselines == TRAIN else config.baselines
    findings = Findings(benchmark, config.search, single, source)
    for split in SPLITS:
        findings.baseline(split)
    while alphas := findings.next_alphas():
        findings.results[alphas[0]] = _fit(runner, alphas[0])
        yield findings
        first_round = len(findings.results) == len(config.search.coarse)
        if first_round and not any(map(math.isfinite, findings.scores().values())):
            raise TrainingFault(
                f"no α of search.coarse={config.search.coarse} has a result: try others, or a "
                "smaller learning_rate."
            )


def _fit(runner: FitRunner, alpha: float) -> ResultRow | None:
    """Return the fits of one α; None if one of them failed, which excludes the α."""
    row = next(runner.rows([alpha_spec(runner.config.method, alpha, runner.config.loss_alpha)]))
    return None if isinstance(row, FailedRow) else row


def _format(change: Estimate) -> str:
    if not np.isfinite(change.mean):
        return NONE
    return f"{change.mean:.2f}" + ("" if np.isnan(change.stderr) else f" ± {change.stderr:.2f}")
