"""Many methods on one benchmark: which fits a comparison needs, and the paper-style table of their
results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl_fairgrad.analysis.delta_m import delta_m, mean_rank
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.config import SupervisedConfig
from mtrl_fairgrad.supervised.trainer import FitResult, FitSpec, fit
from mtrl_fairgrad.utils.text_tables import aligned, csv_text
from mtrl_fairgrad.weighting import method_names, method_options

FAIR = ("ls", "rlw", "dwa", "uw", "mgda", "pcgrad", "cagrad")
"""The methods of the paper's §6, each with and without the α-fair loss transformation."""
ALPHAS = (1.0, 2.0, 5.0, 10.0)
"""The fairness criteria of its §5.3."""
STL = "stl"
"""The label of the single-task row, which Δm% is measured against."""


@dataclass(frozen=True)
class RowSpec:
    """One row of a table before it is filled."""

    label: str
    method: dict[str, Any]
    loss_alpha: float | None = None
    task: int | None = None
    """Only this task's metrics count: part of the single-task row."""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.label if self.task is None else f"{self.label}-{self.task}"


def method(name: str, **chosen: Any) -> dict[str, Any]:
    """A method's configuration: its defaults, and what is chosen."""
    return {"name": name, **method_options(name), **chosen}


def single_task_specs(tasks: int) -> list[RowSpec]:
    """Those that the single-task row is made of."""
    return [RowSpec(STL, method(STL, task=task), task=task) for task in range(tasks)]


def alpha_spec(chosen: Mapping[str, Any], alpha: float, loss_alpha: float | None = None) -> RowSpec:
    """FairGrad at one α, with its other options as chosen."""
    return RowSpec(f"fairgrad α={alpha:.10g}", {**chosen, "alpha": alpha}, loss_alpha)


def comparison_specs(comparison: str, tasks: int) -> list[RowSpec]:
    """The rows of a comparison, `all`, `fair` or `alpha`, the single-task ones first."""
    found = single_task_specs(tasks)
    if comparison == "all":
        return found + [
            RowSpec(name, method(name))
            for name in ("ls", *(n for n in method_names() if n not in ("ls", STL)))
        ]
    if comparison == "alpha":
        return found + [alpha_spec(method("fairgrad"), alpha) for alpha in ALPHAS]
    for name in FAIR:
        plain = RowSpec(name, method(name))
        found += [plain, replace(plain, label=f"fair {name}", loss_alpha=0.5)]
    return found


@dataclass(frozen=True)
class ResultRow:
    """A filled row: results of all seeds, `[S]`."""

    label: str
    results: tuple[FitResult, ...]

    def mean(self, split: str = "metrics") -> dict[str, float]:
        """Metric -> mean over seeds, of the test data or, with `split="validation"`, of those."""
        parts: list[dict[str, float]] = [getattr(result, split) for result in self.results]
        return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}

    def error(self) -> dict[str, float]:
        """Metric -> standard error over seeds; NaN for one seed."""
        count = len(self.results)
        return {
            name: float(np.std([o.metrics[name] for o in self.results], ddof=1) / count**0.5)
            if count > 1
            else np.nan
            for name in self.results[0].metrics
        }

    def seconds(self) -> float:
        """Of an epoch, median over seeds."""
        return float(np.median([result.seconds_per_epoch for result in self.results]))


def single_task_row(parts: Mapping[int, Sequence[FitResult]], benchmark: Benchmark) -> ResultRow:
    """The single-task results of each task as if of one method; an epoch takes as long as all of
    them.
    """
    merged: list[FitResult] = []
    for results in zip(*(parts[task] for task in sorted(parts)), strict=True):
        metrics: dict[str, dict[str, float]] = {"metrics": {}, "validation": {}}
        for metric in benchmark.metrics:
            source = results[benchmark.tasks.index(metric.task)]
            metrics["metrics"][metric.name] = source.metrics[metric.name]
            metrics["validation"][metric.name] = source.validation[metric.name]
        merged.append(
            FitResult(**metrics, seconds_per_epoch=sum(o.seconds_per_epoch for o in results))
        )
    return ResultRow(STL, tuple(merged))


@dataclass(frozen=True)
class FitRunner:
    """Where a command's fits come from: those its folder holds, and otherwise training."""

    config: SupervisedConfig
    benchmark: Benchmark
    folder: Path
    device: torch.device

    def results(self, job: RowSpec) -> tuple[FitResult, ...]:
        """Of all seeds; raises as `fit` does."""
        chosen = replace(self.config, method=job.method, loss_alpha=job.loss_alpha)
        return tuple(
            fit(
                FitSpec.of(chosen, self.benchmark, seed),
                self.benchmark,
                self.folder / job.folder / f"seed-{seed}",
                self.device,
                self.config.progress,
                self.config.workers,
            )
            for seed in self.config.seeds
        )

    def rows(self, asked: Iterable[RowSpec]) -> Iterator[ResultRow]:
        """The rows of jobs in their order, each as soon as it is there; single-task jobs become
        one.
        """
        single: dict[int, tuple[FitResult, ...]] = {}
        for job in asked:
            results = self.results(job)
            if job.task is None:
                yield ResultRow(job.label, results)
                continue
            single[job.task] = results
            if len(single) == len(self.benchmark.tasks):
                yield single_task_row(single, self.benchmark)


def delta_m_or_none(
    values: Sequence[Mapping[str, float]], baseline: Mapping[str, float], benchmark: Benchmark
) -> list[float] | None:
    """Δm% of each mapping of metrics to values; None where a number does not allow it.

    Numbers do where those of all are finite and the baseline's also positive.
    """
    array = np.array([[part[metric.name] for metric in benchmark.metrics] for part in values])
    against = np.array([baseline[metric.name] for metric in benchmark.metrics])
    if not (np.isfinite(array).all() and np.isfinite(against).all() and (against > 0).all()):
        return None
    return delta_m(
        array, against, [metric.higher_is_better for metric in benchmark.metrics]
    ).tolist()


def mean_ranks(rows: Sequence[ResultRow], benchmark: Benchmark) -> dict[str, float]:
    """Label -> mean rank among these rows, those whose numbers are finite; nothing for fewer than
    two.
    """
    values = {row.label: [row.mean()[metric.name] for metric in benchmark.metrics] for row in rows}
    ranked = {label: numbers for label, numbers in values.items() if np.isfinite(numbers).all()}
    if len(ranked) < 2:
        return {}
    found = mean_rank(
        list(ranked.values()), [metric.higher_is_better for metric in benchmark.metrics]
    )
    return dict(zip(ranked, found.tolist(), strict=True))


@dataclass(frozen=True)
class ResultTable:
    """Rows with the summaries over metrics that the paper reports."""

    benchmark: Benchmark
    rows: tuple[ResultRow, ...]

    def summaries(self) -> dict[str, dict[str, float]]:
        """Label -> `mr`, `delta_m` (percent) and `time` (relative to ls), those that can be had."""
        found: dict[str, dict[str, float]] = {row.label: {} for row in self.rows}
        others = [row for row in self.rows if row.label != STL]
        for label, rank in mean_ranks(others, self.benchmark).items():
            found[label]["mr"] = rank
        baseline = next(
            (row.mean() for row in self.rows if row.label == STL), self.benchmark.baseline
        )
        if baseline is not None:
            for row in self.rows:
                for change in delta_m_or_none([row.mean()], baseline, self.benchmark) or ():
                    found[row.label]["delta_m"] = change
        ls = next((row.seconds() for row in self.rows if row.label == "ls"), None)
        if ls:
            for row in self.rows:
                found[row.label]["time"] = row.seconds() / ls
        return found

    def cells(self) -> list[list[str]]:
        """Header and rows as text; many metrics of one kind are left to the CSV file."""
        shown = self.benchmark.metrics if len(self.benchmark.metrics) <= 12 else ()
        arrows = [f"{metric.name} {'↑' if metric.higher_is_better else '↓'}" for metric in shown]
        cells = [["method", *arrows, "MR ↓", "Δm% ↓", "time / ls"]]
        summaries = self.summaries()
        for row in self.rows:
            mean, error, summary = row.mean(), row.error(), summaries[row.label]
            values = [
                f"{mean[m.name]:.4g}"
                + ("" if np.isnan(error[m.name]) else f" ± {error[m.name]:.2g}")
                for m in shown
            ]
            ends = [
                f"{summary[key]:.2f}" if key in summary else "–"
                for key in ("mr", "delta_m", "time")
            ]
            cells.append([row.label, *values, *ends])
        return cells

    def text(self) -> str:
        """For the terminal, columns aligned."""
        return "\n".join(aligned(self.cells()))

    def csv(self) -> str:
        """A line per method with mean and standard error of every metric, for other programs."""
        columns = [
            f"{metric.name}{part}" for metric in self.benchmark.metrics for part in ("", "_stderr")
        ]
        lines: list[list[object]] = [
            ["method", "seeds", *columns, "mr", "delta_m", "time_over_ls", "seconds_per_epoch"]
        ]
        summaries = self.summaries()
        for row in self.rows:
            mean, error, summary = row.mean(), row.error(), summaries[row.label]
            values = [
                part[metric.name] for metric in self.benchmark.metrics for part in (mean, error)
            ]
            ends = [summary.get(key, "") for key in ("mr", "delta_m", "time")]
            lines.append([row.label, len(row.results), *values, *ends, row.seconds()])
        return csv_text(lines)
