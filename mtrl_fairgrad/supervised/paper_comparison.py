"""Supervised fits beside the paper's tables, for `python -m mtrl_fairgrad.report`.

Prints our numbers of every method above the paper's, one line alone where only one side has it.
Writes beside.csv with a row for each method and metric, the summaries `mr` and `delta_m` included:
which table it is, the method and how our row of it is called, the number of seeds, our mean and
standard error over them, and the paper's number, all in the paper's units; a cell is empty where
there is nothing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.analysis.statistics import Estimate, over_seeds
from mtrl_fairgrad.supervised.benchmark import Benchmark, find
from mtrl_fairgrad.supervised.compare import (
    STL,
    ResultRow,
    ResultTable,
    delta_m_or_none,
    mean_ranks,
    single_task_row,
)
from mtrl_fairgrad.supervised.paper_deviations import deviations
from mtrl_fairgrad.supervised.paper_numbers import SUMMARIES, Published, published
from mtrl_fairgrad.supervised.stored_fits import Fit, FitGroup, pool_fits, read_fits
from mtrl_fairgrad.supervised.trainer import FitResult
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.text_tables import aligned, csv_text

NONE = "–"
"""In place of a number that there is not."""
TOY = "toy.csv"
"""What benchmark=toy leaves."""


def beside(paths: Iterable[str | Path], folder: Path) -> None:
    """Print our fits beside the paper's table of their benchmark, and write beside.csv into a
    folder.

    Of the toy problem, where its ways ended.

    Args:
        paths: folders of runs, methods or fits of one benchmark.
        folder: where to write.

    Raises:
        ReportError: no table can be made of them, or it cannot be written.
    """
    paths = [Path(path) for path in paths]
    if any((path / TOY).is_file() for path in paths):
        return _toys(paths)
    fits = read_fits(paths)
    benchmark = find(fits[0].spec["benchmark"]["name"])()
    notes = _unfinished(fits)
    ours = [one for group in pool_fits(fits) if (one := _ours(group, benchmark, notes)) is not None]
    if not ours:
        raise ReportError(f"no row is complete: {notes[-1]}")
    paper = published(benchmark.name)
    if paper is None:
        print(ResultTable(benchmark, tuple(one.row for one in ours)).text())
        notes.insert(0, f"The paper has no table of {benchmark.name}.")
        lines = [Line(one.group.method, one) for one in ours]
    else:
        lines = _matched(ours, paper, benchmark)
        print("\n".join(_text(lines, paper, benchmark, notes)))
    print("\n".join(["", *notes]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "beside.csv", _csv(lines, paper, benchmark).encode())
    except OSError as error:
        raise ReportError(
            f"the table cannot be written to {folder} ({error.strerror}): give another folder with "
            "--out."
        ) from error
    print(f"\nwritten: {folder / 'beside.csv'}")


def _toys(paths: Sequence[Path]) -> None:
    other = [path for path in paths if not (path / TOY).is_file()]
    if other:
        raise ReportError(
            f"{other[0]} is not of the toy problem, others are: report on one benchmark at a time."
        )
    for path in paths:
        with (path / TOY).open(encoding="utf-8", newline="") as file:
            ends = {
                (row["alpha"], row["start"]): row for row in csv.DictReader(file)
            }  # the last of each remains
        names = ("alpha", "start", "x1", "x2", "loss1", "loss2")
        rows = [[f"{float(row[name]):.5g}" for name in names] for row in ends.values()]
        print("\n".join([*aligned([["α", *names[1:]], *rows]), ""]))
    print(
        "The paper has no table of the toy problem: these are the ends of the ways that its Figure "
        "1 draws."
    )


@dataclass(frozen=True, eq=False)
class Ours:
    """A row of ours."""

    group: FitGroup
    row: ResultRow
    delta_m: Estimate | None
    """Of the test data, over seeds; None where there is none."""
    validation: float
    """Δm% of the validation data, by which one of several α is chosen; infinite where there is
    none.
    """


@dataclass
class Line:
    """A row that we or the paper have."""

    method: str
    ours: Ours | None = None
    paper: Mapping[str, str] = field(default_factory=dict)
    """Metric or summary → the number as printed."""
    rank: float | None = None
    """Our MR."""

    @property
    def label(self) -> str:
        """Ours of the method, which tells its options too, or else its name."""
        return self.method if self.ours is None else self.ours.row.label

    def alpha(self) -> float | None:
        """Of our FairGrad on plain losses."""
        if (
            self.ours is None
            or self.method != "fairgrad"
            or self.ours.group.options.get("loss_alpha") is not None
        ):
            return None
        return float(self.ours.group.options["method.alpha"])

    def value(self, metric: str) -> Estimate | None:
        """Our number of a metric or summary."""
        if self.ours is None:
            return None
        if metric == "mr":
            return None if self.rank is None else over_seeds([self.rank], 0)
        if metric == "delta_m":
            return self.ours.delta_m
        return over_seeds([result.metrics[metric] for result in self.ours.row.results], 0)


def _unfinished(fits: Sequence[Fit]) -> list[str]:
    paths = [str(fit.path) for fit in fits if fit.result is None]
    return [f"Left out, because not finished: {', '.join(paths)}."] if paths else []


def _ours(group: FitGroup, benchmark: Benchmark, notes: list[str]) -> Ours | None:
    """A group as a row; what is incomplete is left out and noted."""
    tasks = range(len(benchmark.tasks)) if group.method == STL else [None]
    whole = sorted({s for s, _ in group.fits if all((s, task) in group.fits for task in tasks)})
    partial = sorted({s for s, _ in group.fits} - set(whole))
    if partial:
        seeds = ", ".join(map(str, partial))
        notes.append(
            f"{group.label} is left out for seed {seeds}, which does not have all {len(tasks)} "
            "tasks yet."
        )
    if not whole:
        return None

    def results(task: int | None) -> tuple[FitResult, ...]:
        return tuple(_result(group.fits[s, task], benchmark) for s in whole)

    if group.method == STL:
        single = {task: results(task) for task in range(len(benchmark.tasks))}
        row = ResultRow(group.label, single_task_row(single, benchmark).results)
    else:
        row = ResultRow(group.label, results(None))
    found, chosen = None, None
    if benchmark.baseline is not None:
        found = delta_m_or_none(
            [result.metrics for result in row.results], benchmark.baseline, benchmark
        )
        chosen = delta_m_or_none([row.mean("validation")], benchmark.baseline, benchmark)
    return Ours(
        group,
        row,
        None if found is None else over_seeds(found, 0),
        math.inf if chosen is None else chosen[0],
    )


def _result(fit: Fit, benchmark: Benchmark) -> FitResult:
    assert fit.result is not None
    missing = [
        m.name
        for m in benchmark.metrics
        for part in ("metrics", "validation")
        if m.name not in fit.result[part]
    ]
    if missing:
        raise ReportError(
            f"{fit.path / 'outcome.json'} lacks {missing[0]}: delete the fit's folder and run it "
            "again."
        )
    return FitResult(**fit.result)


def _matched(ours: Sequence[Ours], paper: Published, benchmark: Benchmark) -> list[Line]:
    """The paper's methods in its order, with ours where we have them, then the rest of ours.

    Of several of one method, such as FairGrad's with different α, the best by validation is the
    paper's counterpart, as a search would choose. Our ranks are among the counterparts.
    """
    lines: list[Line] = []
    for method, numbers in paper.rows.items():
        candidates = [
            one
            for one in ours
            if one.group.method == method and one.group.options.get("loss_alpha") is None
        ]
        chosen = min(candidates, key=lambda one: one.validation, default=None)
        lines.append(Line(method, chosen, numbers))
    matched = [line.ours for line in lines if line.ours is not None]
    found = mean_ranks([one.row for one in matched if one.group.method != STL], benchmark)
    for line in lines:
        line.rank = None if line.ours is None else found.get(line.label)
    lines += [Line(one.group.method, one) for one in ours if one not in matched]
    return sorted(lines, key=lambda line: line.method != STL)


# ---- what is printed and written ----


def _text(
    lines: Sequence[Line], paper: Published, benchmark: Benchmark, notes: list[str]
) -> list[str]:
    """The tables; what there is to say about them goes before the other notes."""
    arrows = {metric.name: "↑" if metric.higher_is_better else "↓" for metric in benchmark.metrics}
    shown = {metric: f"{metric} {arrows[metric]}" for metric in paper.metrics} | {
        "mr": "MR ↓",
        "delta_m": "Δm% ↓",
    }
    rows = [[benchmark.name, "", *shown.values()]]
    for line in lines:
        if line.ours:
            numbers = [_number(line.value(key), paper.decimals(key)) for key in shown]
            rows.append(
                [
                    line.label,
                    f"ours, {_seeds(line)}{'' if line.paper else f'; paper {NONE}'}",
                    *numbers,
                ]
            )
        if line.paper:
            whose = ["", "paper"] if line.ours else [line.label, f"ours {NONE}; paper"]
            rows.append([*whose, *(line.paper.get(key, NONE) for key in shown)])
    text = aligned(rows)
    if by_alpha := _by_alpha(lines, paper):
        rows = [["FairGrad by α, Δm% ↓", "ours", "paper, Table 5"]]
        for line in by_alpha:
            ours = _number(line.value("delta_m"), paper.decimals("delta_m"))
            rows.append([line.label, ours, line.paper.get("delta_m", NONE)])
        text += ["", *aligned(rows)]
    notes[:0] = [
        *_meaning(lines, paper),
        *deviations([(o.group, o.row) for line in lines if (o := line.ours)], benchmark),
    ]
    return text


def _by_alpha(lines: Sequence[Line], paper: Published) -> list[Line]:
    """FairGrad by α, ours and the paper's of Table 5, with Δm% alone; empty where one side has
    none.
    """
    known = [(alpha, line.ours) for line in lines if (alpha := line.alpha()) is not None]
    missing = [(alpha, None) for alpha in paper.alphas if alpha not in dict(known)]
    ordered = sorted([*known, *missing], key=lambda pair: pair[0]) if known and paper.alphas else []
    return [
        Line(
            f"fairgrad α={alpha:.10g}",
            ours,
            {"delta_m": paper.alphas[alpha]} if alpha in paper.alphas else {},
        )
        for alpha, ours in ordered
    ]


def _meaning(lines: Sequence[Line], paper: Published) -> list[str]:
    """What the numbers are, in sentences."""
    notes = [
        "The paper's numbers are those of "
        f"{paper.table}{' and, by α, Table 5' if paper.alphas else ''}."
    ]
    if any(len(line.ours.row.results) > 1 for line in lines if line.ours):
        notes.append("±: one standard error over seeds, which the paper does not print.")
    notes.append(f"Δm% of both is relative to {paper.single_task}.")
    ranked = sum(line.rank is not None for line in lines)
    if ranked:
        methods = len(paper.rows) - (STL in paper.rows)
        notes.append(
            f"MR: ours among the {ranked} methods that both have, the paper's among its {methods}."
        )
    ours = [line for line in lines if line.ours]
    for line in ours:
        if line.paper and sum(other.method == line.method for other in ours) > 1:
            notes.append(
                f"Of our rows of {line.method}, the best by validation stands with the paper's: "
                f"{line.label}."
            )
    return notes


def _csv(lines: Sequence[Line], paper: Published | None, benchmark: Benchmark) -> str:
    """The rows of beside.csv, described at the top of this file."""
    rows: list[list[object]] = [
        ["table", "method", "ours", "metric", "seeds", "mean", "stderr", "paper"]
    ]
    metrics = [metric.name for metric in benchmark.metrics]
    if paper is None:
        return csv_text([*rows, *(cells for line in lines for cells in _cells("", line, metrics))])
    for line in lines:
        rows += _cells(paper.table, line, [*metrics, *SUMMARIES])
    for line in _by_alpha(lines, paper):
        rows += _cells("Table 5", line, ["delta_m"])
    return csv_text(rows)


def _cells(table: str, line: Line, metrics: Sequence[str]) -> list[list[object]]:
    seeds, label = (len(line.ours.row.results), line.label) if line.ours else ("", "")
    found: list[list[object]] = []
    for metric in metrics:
        value = line.value(metric)
        numbers = (
            ["" if np.isnan(number) else float(number) for number in value]
            if value is not None
            else ["", ""]
        )
        found.append(
            [table, line.method, label, metric, seeds, *numbers, line.paper.get(metric, "")]
        )
    return found


def _seeds(line: Line) -> str:
    count = len(line.ours.row.results) if line.ours else 0
    return f"{count} seed{'' if count == 1 else 's'}"


def _number(value: Estimate | None, decimals: int) -> str:
    if value is None:
        return NONE
    return f"{value.mean:.{decimals}f}" + (
        "" if np.isnan(value.stderr) else f" ± {value.stderr:.{decimals}f}"
    )
