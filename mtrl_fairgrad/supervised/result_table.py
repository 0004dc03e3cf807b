"""Results of methods on one benchmark as a table, with the summaries that the paper reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtrl_fairgrad.analysis.delta_m import delta_m, mean_rank
from mtrl_fairgrad.analysis.statistics import over_seeds
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.fit_folder import SINGLE_TASK, FitResult
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.text_tables import csv_report, text_table

SUMMARIES = ("mr", "delta_m", "time")
"""Keys of a row's summaries: mean rank, Δm in percent, and the time of an epoch relative to ls."""
MOST_COLUMNS = 12
"""Largest number of metrics in the text table; with more, only the CSV file has them."""
NONE = "–"
"""Shown for a number that is not available."""


@dataclass(frozen=True)
class ResultRow:
    """The results of one method for all seeds, `[S]`."""

    label: str
    results: tuple[FitResult, ...]

    def mean(self, split: str = "metrics") -> dict[str, float]:
        """Return metric → mean over seeds.

        Args:
            split: `metrics` for the test data, or `validation`.
        """
        parts: list[dict[str, float]] = [getattr(result, split) for result in self.results]
        return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}

    def error(self) -> dict[str, float]:
        """Return metric → standard error over seeds; NaN for one seed."""
        return {
            name: float(over_seeds([result.metrics[name] for result in self.results], 0).stderr)
            for name in self.results[0].metrics
        }

    def seconds(self) -> float:
        """Return the seconds per epoch, median over seeds."""
        return float(np.median([result.seconds_per_epoch for result in self.results]))


@dataclass(frozen=True)
class FailedRow:
    """A method without results, because training failed for at least one seed."""

    label: str
    fault: str
    """The cause, as one or more sentences."""


def single_task_row(
    parts: Mapping[int, Sequence[FitResult]], benchmark: Benchmark, label: str = SINGLE_TASK
) -> ResultRow:
    """Merge single-task results into one row.

    Every metric is that of the fit of its own task; the seconds of an epoch are the sum over tasks.

    Args:
        parts: index of the task → results `[S]`; all K tasks.
        benchmark: the benchmark with these tasks and metrics.
        label: label of the row.
    """
    merged: list[FitResult] = []
    for results in zip(*(parts[task] for task in sorted(parts)), strict=True):
        source = {m.name: results[benchmark.tasks.index(m.task)] for m in benchmark.metrics}
        merged.append(
            FitResult(
                metrics={name: result.metrics[name] for name, result in source.items()},
                validation={name: result.validation[name] for name, result in source.items()},
                seconds_per_epoch=sum(result.seconds_per_epoch for result in results),
            )
        )
    return ResultRow(label, tuple(merged))


def delta_m_or_none(
    values: Sequence[Mapping[str, float]], baseline: Mapping[str, float], benchmark: Benchmark
) -> list[float] | None:
    """Return Δm% of each mapping of metrics.

    None unless all values are finite and those of the baseline positive.
    """
    array = np.array([[part[metric.name] for metric in benchmark.metrics] for part in values])
    against = np.array([baseline[metric.name] for metric in benchmark.metrics])
    if not (np.isfinite(array).all() and np.isfinite(against).all() and (against > 0).all()):
        return None
    return delta_m(array, against, _higher_is_better(benchmark)).tolist()


def mean_ranks(rows: Sequence[ResultRow], benchmark: Benchmark) -> dict[str, float]:
    """Return label → mean rank among rows with finite metrics; empty for fewer than two rows."""
    values = {row.label: [row.mean()[metric.name] for metric in benchmark.metrics] for row in rows}
    finite = {label: numbers for label, numbers in values.items() if np.isfinite(numbers).all()}
    if len(finite) < 2:
        return {}
    ranks = mean_rank(list(finite.values()), _higher_is_better(benchmark))
    return dict(zip(finite, ranks.tolist(), strict=True))


def _higher_is_better(benchmark: Benchmark) -> list[bool]:
    return [metric.higher_is_better for metric in benchmark.metrics]


@dataclass(frozen=True)
class ResultTable:
    """Rows and their summaries over metrics."""

    benchmark: Benchmark
    rows: tuple[ResultRow, ...]
    failed: tuple[FailedRow, ...] = ()
    """Methods without results: they are listed last and have no summaries."""

    def with_row(self, row: ResultRow | FailedRow) -> ResultTable:
        """Return the table with one more row."""
        if isinstance(row, FailedRow):
            return replace(self, failed=(*self.failed, row))
        return replace(self, rows=(*self.rows, row))

    def summaries(self) -> dict[str, dict[str, float]]:
        """Return label → those of `SUMMARIES` that are defined.

        Single tasks are not ranked. Δm% refers to the single-task row, or without one to the
        benchmark's baseline; it is undefined if the single-task row failed.
        """
        summaries: dict[str, dict[str, float]] = {row.label: {} for row in self.rows}
        ranked = [row for row in self.rows if row.label != SINGLE_TASK]
        for label, rank in mean_ranks(ranked, self.benchmark).items():
            summaries[label]["mr"] = rank
        single = next((row.mean() for row in self.rows if row.label == SINGLE_TASK), None)
        baseline = self.benchmark.baseline if single is None else single
        if any(row.label == SINGLE_TASK for row in self.failed):
            baseline = None
        ls = next((row.seconds() for row in self.rows if row.label == "ls"), None)
        for row in self.rows:
            if baseline is not None:
                for change in delta_m_or_none([row.mean()], baseline, self.benchmark) or ():
                    summaries[row.label]["delta_m"] = change
            if ls and math.isfinite(row.seconds()):
                summaries[row.label]["time"] = row.seconds() / ls
        return summaries

    def cells(self) -> list[list[str]]:
        """Return header and rows as text."""
        metrics = self.benchmark.metrics if len(self.benchmark.metrics) <= MOST_COLUMNS else ()
        arrows = [f"{metric.name} {'↑' if metric.higher_is_better else '↓'}" for metric in metrics]
        cells = [["method", *arrows, "MR ↓", "Δm% ↓", "time / ls"]]
        summaries = self.summaries()
        for row in self.rows:
            mean, error, summary = row.mean(), row.error(), summaries[row.label]
            numbers = [
                f"{mean[m.name]:.4g}"
                + ("" if math.isnan(error[m.name]) else f" ± {error[m.name]:.2g}")
                for m in metrics
            ]
            ends = [f"{summary[key]:.2f}" if key in summary else NONE for key in SUMMARIES]
            cells.append([row.label, *numbers, *ends])
        cells += [[row.label, *[NONE] * (len(cells[0]) - 1)] for row in self.failed]
        return cells

    def text(self) -> str:
        """Return the table for the terminal, with a note on each method that failed."""
        notes: list[str] = []
        for row in self.failed:
            what = "so Δm% is undefined" if row.label == SINGLE_TASK else "so it is not ranked"
            notes.append(f"{row.label} failed, {what}: {row.fault}")
        return "\n".join([*text_table(self.cells()), *([""] if notes else []), *map(clean, notes)])

    def csv(self) -> str:
        """Return the table as CSV: mean and standard error of every metric, and the summaries.

        A failed method has its cause in the last column, `fault`, and no numbers.
        """
        names = [metric.name for metric in self.benchmark.metrics]
        columns = [f"{name}{part}" for name in names for part in ("", "_stderr")]
        ends = ("mr", "delta_m", "time_over_ls", "seconds_per_epoch", "fault")
        lines: list[list[object]] = [["method", "seeds", *columns, *ends]]
        summaries = self.summaries()
        for row in self.rows:
            mean, error, summary = row.mean(), row.error(), summaries[row.label]
            values = [part[name] for name in names for part in (mean, error)]
            ends = [summary.get(key, "") for key in SUMMARIES]
            lines.append([row.label, len(row.results), *values, *ends, row.seconds(), ""])
        empty = [""] * (len(lines[0]) - 3)
        lines += [[row.label, 0, *empty, row.fault] for row in self.failed]
        return csv_report(lines)
