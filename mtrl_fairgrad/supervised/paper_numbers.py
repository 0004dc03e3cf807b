"""What the paper prints of each benchmark."""

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
"""Benchmark → its table. The columns of most are our metrics, by the same names and in the same
units.
"""
CELEBA = {"mr": "celeba_mean_rank", "delta_m": "celeba_delta_m"}
"""Of CelebA, with its 40 metrics, the paper has summaries only."""
BY_ALPHA = {"nyuv2": "nyuv2_delta_m", "cityscapes": "cityscapes_delta_m"}
"""Benchmark → its column of Table 5, Δm% of FairGrad by α."""
SINGLE_TASK = {
    "nyuv2": "the paper's row stl",
    "cityscapes": "the paper's row stl",
    "qm9": "the official code's single-task errors, which the paper's row stl rounds",
    "celeba": "the official code's single-task F1, which the paper does not print",
}
"""Benchmark → what its Δm% is relative to, in the paper and here."""
SEEDS = 3
"""Of every number of these tables."""
SUMMARIES = ("mr", "delta_m")


@dataclass(frozen=True)
class Published:
    """One benchmark's table, each number as it is printed."""

    table: str
    """Such as `Table 2`."""
    metrics: tuple[str, ...]
    """Ours that it has, without the summaries `mr` and `delta_m`."""
    rows: Mapping[str, Mapping[str, str]]
    """Method → metric or summary → the number; what is not printed is not there."""
    alphas: Mapping[float, str]
    """α → Δm% of FairGrad; empty where the paper has none."""
    single_task: str
    """What Δm% is relative to."""

    def decimals(self, metric: str) -> int:
        """The most that a number of this column has."""
        printed = [row[metric] for row in self.rows.values() if metric in row]
        return max(len(number.partition(".")[2]) for number in printed)


def published(benchmark: str) -> Published | None:
    """What the paper prints of a benchmark; None if it does not have it in a table."""
    if benchmark not in TABLES:
        return None
    table = paper_table(TABLES[benchmark])
    columns = (
        CELEBA if benchmark == "celeba" else {metric.name: metric.name for metric in table.metrics}
    )
    rows = {method: _row(table, index, columns) for index, method in enumerate(table.methods)}
    metrics = tuple(metric for metric in columns if metric not in SUMMARIES)
    return Published(
        table.name.replace("table", "Table "),
        metrics,
        rows,
        _by_alpha(benchmark),
        SINGLE_TASK[benchmark],
    )


def _row(table: PaperTable, index: int, columns: Mapping[str, str]) -> dict[str, str]:
    names = [metric.name for metric in table.metrics]
    places = {metric: names.index(column) for metric, column in columns.items()}
    numbers = {
        metric: (table.values[index, k], table.rounding[index, k]) for metric, k in places.items()
    }
    numbers = {
        "mr": (table.mean_rank[index], 0.005),
        "delta_m": (table.delta_m[index], table.delta_m_rounding[index]),
    } | numbers
    return {
        metric: _printed(*number) for metric, number in numbers.items() if math.isfinite(number[0])
    }


def _by_alpha(benchmark: str) -> dict[float, str]:
    if benchmark not in BY_ALPHA:
        return {}
    table = paper_table("table5")
    k = [metric.name for metric in table.metrics].index(BY_ALPHA[benchmark])
    alphas = [float(method.partition("=")[2].rstrip(")")) for method in table.methods]
    return {
        alpha: _printed(table.values[m, k], table.rounding[m, k]) for m, alpha in enumerate(alphas)
    }


def _printed(value: float, rounding: float) -> str:
    """The number with the digits it was printed with: its rounding is half a unit of the last."""
    return f"{value:.{round(-math.log10(2 * rounding))}f}"
