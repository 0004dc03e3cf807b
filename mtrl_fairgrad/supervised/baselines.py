"""The single-task results that Δm% refers to: trained, published, or read from an earlier run."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.config import PUBLISHED, TRAIN, SupervisedConfig
from mtrl_fairgrad.supervised.fit_folder import MAX_BYTES, SINGLE_TASK, FitResult
from mtrl_fairgrad.supervised.result_table import ResultRow
from mtrl_fairgrad.supervised.stored_fits import pool_fits, read_fits
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from mtrl_fairgrad.utils.safe_files import read_bytes
from mtrl_fairgrad.utils.validation import ConfigError


def trains_single_tasks(config: SupervisedConfig, benchmark: Benchmark) -> bool:
    """Return whether a fit of each task alone belongs to the run."""
    if config.baselines is not None:
        return config.baselines == TRAIN
    if config.compare == "search":
        return benchmark.baseline is None
    return config.compare is not None


def given_baselines(config: SupervisedConfig, benchmark: Benchmark) -> ResultRow | None:
    """Read the single-task row from the folder or file that `baselines` names; None if it is none.

    Raises:
        ConfigError: the path does not have the results of all tasks of this benchmark.
    """
    if config.baselines in (None, TRAIN, PUBLISHED):
        return None
    path = Path(str(config.baselines))
    try:
        row = (
            _from_table(path, benchmark)
            if path.is_file()
            else _from_fits(path, config.benchmark, benchmark)
        )
    except (ReportError, RunFolderError) as error:
        raise _refusal(path, str(error)) from None
    for name, value in row.mean().items():
        if not (math.isfinite(value) and value > 0):
            raise _refusal(
                path, f"{name} is {value:g}, but Δm% is relative to a number above 0: give others."
            )
    return row


def _from_fits(path: Path, chosen: dict[str, object], benchmark: Benchmark) -> ResultRow:
    """Merge the single-task fits below a folder into one row over the seeds that have all tasks."""
    groups = [group for group in pool_fits(read_fits([path])) if group.method == SINGLE_TASK]
    if len(groups) != 1:
        raise _refusal(
            path,
            f"it has {len(groups)} sets of single-task fits: give a folder of one set, such as "
            "that of a comparison.",
        )
    [group] = groups
    for key, value in chosen.items():
        there = group.options.get(f"benchmark.{key}")
        if there != value:
            raise _refusal(
                path, f"its fits have benchmark.{key}={there}, not {value}: give fits of the same."
            )
    row = group.row(benchmark, SINGLE_TASK)
    if row is None:
        missing, *_ = group.missing(benchmark).values()
        raise _refusal(path, f"it lacks finished fits of {', '.join(missing)}: run them first.")
    return row


def _from_table(file: Path, benchmark: Benchmark) -> ResultRow:
    """Read the row `stl` of a CSV file with a column for each metric, such as table.csv."""
    try:
        lines = io.StringIO(read_bytes(file.resolve(), MAX_BYTES).decode(), newline="")
        rows = [row for row in csv.DictReader(lines) if row.get("method") == SINGLE_TASK]
        [row] = rows
        values = {metric.name: float(row[metric.name]) for metric in benchmark.metrics}
        seconds = float(row.get("seconds_per_epoch") or math.nan)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        names = ", ".join(metric.name for metric in benchmark.metrics[:3])
        raise _refusal(
            file,
            f"it must be a CSV file with one row whose method is {SINGLE_TASK} and a number for "
            f"each metric ({names}, …), such as the table.csv of a comparison.",
        ) from error
    return ResultRow(SINGLE_TASK, (FitResult(values, values, seconds),))


def _refusal(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"baselines={path} cannot be used: {reason}", "baselines", str(path))
