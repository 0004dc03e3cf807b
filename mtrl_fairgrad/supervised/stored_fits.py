"""Read the folders of fits back, and pool those that differ in their seed alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.config.schema import flatten
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.fit_folder import SINGLE_TASK, FitFolder, FitResult, fit_folders
from mtrl_fairgrad.supervised.result_table import ResultRow, single_task_row


@dataclass(frozen=True)
class FinishedFit:
    """A fit that has a result."""

    path: Path
    result: FitResult


@dataclass
class FitGroup:
    """Finished fits with the same options; single-task fits of all tasks form one group."""

    options: dict[str, Any]
    """The options that all fits share, by dotted names."""
    fits: dict[tuple[int, int | None], FinishedFit] = field(default_factory=dict)
    """(seed, index of the single task or None) → fit."""
    label: str = ""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.options["method.name"]

    def missing(self, benchmark: Benchmark) -> dict[int, list[str]]:
        """Return seed → tasks without a finished fit, which only single-task fits can have."""
        tasks = benchmark.tasks if self.method == SINGLE_TASK else ()
        return {
            seed: [task for index, task in enumerate(tasks) if (seed, index) not in self.fits]
            for seed in sorted({seed for seed, _ in self.fits})
        }

    def row(self, benchmark: Benchmark, label: str) -> ResultRow | None:
        """Merge the fits into a row over the seeds that miss no task; None if there is no seed.

        Raises:
            ReportError: a result lacks a metric.
        """
        seeds = [seed for seed, tasks in self.missing(benchmark).items() if not tasks]
        if not seeds:
            return None

        def results(task: int | None) -> tuple[FitResult, ...]:
            return tuple(_complete(self.fits[seed, task], benchmark) for seed in seeds)

        if self.method != SINGLE_TASK:
            return ResultRow(label, results(None))
        parts = {task: results(task) for task in range(len(benchmark.tasks))}
        return single_task_row(parts, benchmark, label)


def read_fits(paths: Iterable[str | Path]) -> list[FitFolder]:
    """Open all fits below the given folders, each once.

    Raises:
        ReportError: a folder holds no fits, or the fits are of several benchmarks.
        RunFolderError: a file is damaged.
    """
    fits: dict[Path, FitFolder] = {}
    for path in paths:
        folders = fit_folders(path)
        if not folders:
            raise ReportError(
                f"{path} holds no supervised fits: give the folder that the command wrote to."
            )
        fits |= {folder.resolve(): FitFolder.open(folder) for folder in folders}
    homes = {fit.config["benchmark"]["name"]: fit.path for fit in fits.values()}
    if len(homes) > 1:
        (one, here), (other, there), *_ = homes.items()
        raise ReportError(
            f"{here} is a fit of {one} but {there} of {other}: report on one benchmark at a time."
        )
    return list(fits.values())


def pool_fits(fits: Iterable[FitFolder]) -> list[FitGroup]:
    """Group the finished fits by their options, with labels, in the order stl, ls, others.

    Raises:
        ReportError: no fit is finished, or two fits of the same options and seed differ.
        RunFolderError: a result is damaged.
    """
    groups: dict[str, FitGroup] = {}
    failed: list[str] = []
    for fit in fits:
        result = fit.result()
        if result is None:
            if (fault := fit.fault()) is not None:
                failed.append(f"{fit.path} failed: {fault}")
            continue
        options = _shared_options(fit)
        group = groups.setdefault(json.dumps(options, sort_keys=True), FitGroup(options))
        finished = FinishedFit(fit.path, result)
        first = group.fits.setdefault((fit.seed, fit.single_task), finished)
        if first.result.metrics != result.metrics:
            raise ReportError(
                f"{first.path} and {fit.path} have the same options and seed but different "
                "results: leave one out."
            )
    if not groups:
        again = "give the command that wrote them again, with its run_dir."
        raise ReportError(
            f"no fit here has a result; {failed[0]} To repeat it, {again}"
            if failed
            else f"no fit here is finished yet: {again}"
        )
    _set_labels(list(groups.values()))
    return sorted(groups.values(), key=_order)


def _complete(fit: FinishedFit, benchmark: Benchmark) -> FitResult:
    for values in (fit.result.metrics, fit.result.validation):
        missing = [metric.name for metric in benchmark.metrics if metric.name not in values]
        if missing:
            raise ReportError(
                f"the result in {fit.path} lacks {missing[0]}: delete the folder and run the fit "
                "again."
            )
    return fit.result


def _shared_options(fit: FitFolder) -> dict[str, Any]:
    """Return the options of a fit by dotted names, without its seed and its single task.

    Null stands for an option that is not given, as in fits of versions that did not have it.
    """
    own = {"seed"} if fit.single_task is None else {"seed", "method.task"}
    options = flatten(fit.config)
    return {key: value for key, value in options.items() if key not in own and value is not None}


def _set_labels(groups: list[FitGroup]) -> None:
    """Label each group by method, α and loss transformation.

    Groups with equal labels get the options in which they differ, too.
    """
    for group in groups:
        fair = "" if group.options.get("loss_alpha") is None else "fair "
        alpha = group.options.get("method.alpha")
        group.label = f"{fair}{group.method}{'' if alpha is None else f' α={alpha:.10g}'}"
    for label in {group.label for group in groups}:
        alike = [group for group in groups if group.label == label]
        differing = sorted(
            key
            for key in {key for group in alike for key in group.options}
            if any(group.options.get(key) != alike[0].options.get(key) for group in alike)
        )
        for group in alike if differing else ():
            words = [
                f"{key.removeprefix('method.').removeprefix('schedule.')}={group.options.get(key)}"
                for key in differing
            ]
            group.label = f"{label} ({', '.join(words)})"


def _order(group: FitGroup) -> tuple[Any, ...]:
    return (
        group.method != SINGLE_TASK,
        group.method != "ls",
        group.method,
        group.options.get("method.alpha", 0.0),
        group.label,
    )
