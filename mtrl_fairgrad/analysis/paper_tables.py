"""The paper's tables as data.

Ban & Ji, "Fair Resource Allocation in Multi-Task Learning", arXiv:2402.15638v2:

    table1  CelebA and QM9: mean rank and Δm          table5  NYU-v2, Cityscapes: FairGrad's Δm by α
    table2  NYU-v2: nine metrics of three tasks       table6  NYU-v2: methods on α-fair losses
    table3  Cityscapes: four metrics of two tasks     table7  Cityscapes: methods on α-fair losses
    table4  MT10: success rates                       table8  QM9: errors of eleven properties

`paper/table*.csv` contain all printed digits, trailing zeros included, from which
`PaperTable.rounding` is computed. Methods have their names in this package (`method=…`). In Table
4, `nash_mtl` is the paper's "Nash-MTL (reproduced)" and `nash_mtl_original` its "Nash-MTL*", while
`mtl_sac`, `mtl_sac_te` (task encoder) and `mh_sac` (multi-headed) are agents without a gradient
method. Tables 6 and 7 repeat rows of Tables 2 and 3, to whose row `stl` their Δm refers, beside
those on α-fair losses, `METHOD (loss_alpha=0.5)`. `paper/columns.csv` holds meaning, unit and
direction of each metric.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAPER_TABLES", "Metric", "PaperTable", "celeba_stl", "paper_table"]

Array = NDArray[np.float64]

PAPER_TABLES = tuple(f"table{number}" for number in range(1, 9))


@dataclass(frozen=True)
class Metric:
    """A column of a table (a row of columns.csv)."""

    name: str
    higher_is_better: bool
    unit: str
    """As printed; `1` for dimensionless numbers."""
    meaning: str


@dataclass(frozen=True)
class PaperTable:
    """A table of M methods in the paper's order (the baseline `stl` first, if any) and K metrics.

    Values that the paper does not print are NaN.
    """

    name: str
    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    values: Array
    """`[M, K]`, in the metrics' units."""
    rounding: Array
    """`[M, K]`: half a unit of the last printed digit, the uncertainty of the value."""
    stderr: Array
    """`[M]`: standard error over seeds, in Table 4 only."""
    mean_rank: Array
    """`[M]`: MR as printed in Tables 2, 3 and 8, to two decimals; see `delta_m.mean_rank`."""
    delta_m: Array
    """`[M]`: Δm in % as printed in Tables 2, 3, 6, 7 and 8; see `delta_m.delta_m`."""
    delta_m_rounding: Array
    """`[M]`: half a unit of Δm's last printed digit."""

    @property
    def higher_is_better(self) -> NDArray[np.bool_]:
        """Direction of each metric, `[K]`."""
        return np.array([metric.higher_is_better for metric in self.metrics])

    def row(self, method: str) -> int:
        """Return the index of a method in M; `ValueError` if the table lacks it."""
        if method not in self.methods:
            raise ValueError(
                f"{self.name} has no row {method!r}: it has {', '.join(self.methods)}."
            )
        return self.methods.index(method)


def paper_table(name: str) -> PaperTable:
    """Read a table by its name in `PAPER_TABLES`; `ValueError` for other names."""
    if name not in PAPER_TABLES:
        raise ValueError(
            f"paper table {name!r} does not exist: give one of {', '.join(PAPER_TABLES)}."
        )
    rows = _read(f"{name}.csv")
    known = {row["name"]: row for row in _read("columns.csv")}
    metrics = tuple(_metric(known[column]) for column in rows[0] if column in known)
    values, rounding = _numbers(rows, [metric.name for metric in metrics])
    stderr, _ = _numbers(rows, ["stderr"])
    ranks, _ = _numbers(rows, ["mean_rank"])
    delta, delta_rounding = _numbers(rows, ["delta_m"])
    methods = tuple(row["method"] for row in rows)
    return PaperTable(
        name=name,
        methods=methods,
        metrics=metrics,
        values=values,
        rounding=rounding,
        stderr=stderr[:, 0],
        mean_rank=ranks[:, 0],
        delta_m=delta[:, 0],
        delta_m_rounding=delta_rounding[:, 0],
    )


def celeba_stl() -> dict[str, float]:
    """Return test F1 of single-task networks by CelebA attribute, as in list_attr_celeba.txt.

    The paper does not print the baseline of its Δm on CelebA; the official code contains it.
    """
    return {row["attribute"]: float(row["f1"]) for row in _read("celeba_stl.csv")}


def _read(file: str) -> list[dict[str, str]]:
    text = (files("mtrl_fairgrad.analysis") / "paper" / file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _metric(row: dict[str, str]) -> Metric:
    return Metric(row["name"], row["better"] == "higher", row["unit"], row["meaning"])


def _numbers(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> tuple[Array, Array]:
    """Parse values and rounding `[M, len(columns)]`; NaN for empty cells and missing columns."""
    cells = [[row.get(column, "") for column in columns] for row in rows]
    values = [[float(cell or "nan") for cell in line] for line in cells]
    rounding = [[_half_unit(cell) for cell in line] for line in cells]
    return np.array(values), np.array(rounding)


def _half_unit(cell: str) -> float:
    """Return half a unit of the last digit: `"0.20"` → 0.005, `""` → NaN."""
    return 0.5 * 10.0 ** -len(cell.partition(".")[2]) if cell else float("nan")
