"""The numbers that the paper prints for each supervised benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mtrl_fairgrad.analysis.paper_tables import PaperTable, paper_table

TABLES: Mapping[str, str] = {
    "nyuv2": "table2",
    "cityscapes": "table3",
    "qm9": "table8",
    "celeba": "table1",
}
"""Benchmark → its table. Columns have the names and units of our metrics.

CelebA is an exception, see `CELEBA_COLUMNS`.
"""
CELEBA_COLUMNS = {"mr": "celeba_mean_rank", "delta_m": "celeba_delta_m"}
"""Summary → column; of CelebA's 40 metrics the paper prints summaries only."""
ALPHA_COLUMNS = {"nyuv2": "nyuv2_delta_m", "cityscapes": "cityscapes_delta_m"}
"""Benchmark → column of Table 5, Δm% of FairGrad by α."""
FAIR_TABLES = {"nyuv2": "table6", "cityscapes": "table7"}
"""Benchmark → its table of methods on α-fair losses."""
FAIR_ALPHA = 0.5
"""The `loss_alpha` of these tables."""
ALSO_IN = {"qm9": "Table 1"}
"""Benchmark → another table, which repeats the summaries."""
SINGLE_TASK_SOURCES = {
    "nyuv2": "the paper's row stl",
    "cityscapes": "the paper's row stl",
    "qm9": "the official code's single-task errors, which the paper's row stl rounds",
    "celeba": "the official code's single-task F1, which the paper does not print",
}
"""Benchmark → what its Δm% is relative to, in the paper and here."""
SEEDS = 3
"""Number of seeds behind every number of these tables."""
SUMMARIES = ("mr", "delta_m")


@dataclass(frozen=True)
class PublishedTable:
    """The table of one benchmark, each number as it is printed."""

    table: str
    """Name of the table, such as `Table 2`."""
    metrics: tuple[str, ...]
    """The benchmark's metrics that the table has, without the summaries `mr` and `delta_m`."""
    rows: Mapping[str, Mapping[str, str]]
    """Method → metric or summary → number; what is not printed is missing."""
    alphas: Mapping[float, str]
    """α → Δm% of FairGrad in Table 5; empty where the paper has none."""
    fair_table: str
    """Name of the table of methods on α-fair losses; empty where the paper has none."""
    fair: Mapping[str, Mapping[str, str]]
    """Method → metric or `delta_m` → number, on losses transformed with `FAIR_ALPHA`."""
    also_in: str
    """Another table with the same summaries, or empty."""
    single_task: str
    """What Δm% is relative to."""

    def decimals(self, metric: str) -> int:
        """Return the largest number of decimals in the column of a metric or summary."""
        printed = [row[metric] for row in self.rows.values() if metric in row]
        return max(len(number.partition(".")[2]) for number in printed)


def published_table(benchmark: str) -> PublishedTable | None:
    """Return the paper's table of a benchmark; None if it has none."""
    if benchmark not in TABLES:
        return None
    table = paper_table(TABLES[benchmark])
    columns = (
        CELEBA_COLUMNS
        if benchmark == "celeba"
        else {metric.name: metric.name for metric in table.metrics}
    )
    return PublishedTable(
        table=_title(table.name),
        metrics=tuple(metric for metric in columns if metric not in SUMMARIES),
        rows={method: _row(table, index, columns) for index, method in enumerate(table.methods)},
        alphas=_by_alpha(benchmark),
        fair_table=_title(FAIR_TABLES.get(benchmark, "")),
        fair=_fair(benchmark),
        also_in=ALSO_IN.get(benchmark, ""),
        single_task=SINGLE_TASK_SOURCES[benchmark],
    )


def _row(table: PaperTable, index: int, columns: Mapping[str, str]) -> dict[str, str]:
    names = [metric.name for metric in table.metrics]
    numbers = {
        "mr": (table.mean_rank[index], 0.005),
        "delta_m": (table.delta_m[index], table.delta_m_rounding[index]),
    }
    for metric, column in columns.items():
        k = names.index(column)
        numbers[metric] = (table.values[index, k], table.rounding[index, k])
    return {
        metric: _printed(*number) for metric, number in numbers.items() if math.isfinite(number[0])
    }


def _title(name: str) -> str:
    """Return the name of a table in print."""
    return name.replace("table", "Table ")


def _fair(benchmark: str) -> dict[str, dict[str, str]]:
    if benchmark not in FAIR_TABLES:
        return {}
    table = paper_table(FAIR_TABLES[benchmark])
    columns = {metric.name: metric.name for metric in table.metrics}
    suffix = f" (loss_alpha={FAIR_ALPHA})"
    return {
        method.removesuffix(suffix): _row(table, index, columns)
        for index, method in enumerate(table.methods)
        if method.endswith(suffix)
    }


def _by_alpha(benchmark: str) -> dict[float, str]:
    if benchmark not in ALPHA_COLUMNS:
        return {}
    table = paper_table("table5")
    k = [metric.name for metric in table.metrics].index(ALPHA_COLUMNS[benchmark])
    alphas = [float(method.partition("=")[2].rstrip(")")) for method in table.methods]
    return {
        alpha: _printed(table.values[m, k], table.rounding[m, k]) for m, alpha in enumerate(alphas)
    }


def _printed(value: float, rounding: float) -> str:
    """Format a number with the decimals that it was printed with.

    `rounding` is half a unit of the last decimal.
    """
    return f"{value:.{round(-math.log10(2 * rounding))}f}"
