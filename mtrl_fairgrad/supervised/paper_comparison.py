"""Comparison of supervised fits with the paper's tables, for `python -m mtrl_fairgrad.report`.

Prints our numbers of every method above the paper's, or one line where only one of both exists.
Writes paper_comparison.csv with a row for each method and metric, the summaries `mr` and `delta_m`
included: the paper's table, the method and the label of our row, the number of seeds, our mean and
standard error over them, and the paper's number, all in the paper's units. Cells are empty where
there is no number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.analysis.statistics import Estimate, over_seeds
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.benchmarks import benchmark_class, toy_files
from mtrl_fairgrad.supervised.fit_folder import SINGLE_TASK, FitFolder
from mtrl_fairgrad.supervised.paper_deviations import deviations
from mtrl_fairgrad.supervised.paper_numbers import (
    FAIR_ALPHA,
    SUMMARIES,
    PublishedTable,
    published_table,
)
from mtrl_fairgrad.supervised.result_table import (
    NONE,
    ResultRow,
    ResultTable,
    delta_m_or_none,
    mean_ranks,
)
from mtrl_fairgrad.supervised.stored_fits import FitGroup, pool_fits, read_fits
from mtrl_fairgrad.utils.atomic_io import make_folders, write_atomic
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.text_tables import csv_report, text_table

OUTPUT = "paper_comparison.csv"
COLUMNS = ("table", "method", "ours", "metric", "seeds", "mean", "stderr", "paper")


def compare_with_paper(paths: Iterable[str | Path], folder: Path) -> None:
    """Print fits of one benchmark with the paper's table of it, and write paper_comparison.csv.

    For the toy problem, print where the trajectories end.

    Args:
        paths: folders of runs, methods or fits of one benchmark.
        folder: where to write.

    Raises:
        ReportError: the fits cannot be compared, or the table cannot be written.
    """
    paths = [Path(path) for path in paths]
    if any(toy_files.is_toy_run(path) for path in paths):
        return toy_files.print_ends(paths)
    fits = read_fits(paths)
    benchmark = benchmark_class(fits[0].config["benchmark"]["name"])()
    notes = _unfinished(fits)
    rows = [row for group in pool_fits(fits) if (row := _our_row(group, benchmark, notes))]
    if not rows:
        raise ReportError(f"no row is complete: {notes[-1]}")
    paper = published_table(benchmark.name)
    if paper is None:
        print(ResultTable(benchmark, tuple(rows)).text())
        notes.insert(0, f"The paper has no table of {benchmark.name}.")
        plain, fair = [Line(row.method, row) for row in rows], []
    else:
        fair = _fair_lines(rows, paper)
        used = {id(line.ours) for line in fair}
        plain = _matched([row for row in rows if id(row) not in used], paper, benchmark)
        lines = plain + fair
        notes[:0] = [
            *_explanations(lines, paper),
            *deviations([(row.group, row) for line in lines if (row := line.ours)], benchmark),
        ]
        print(_text(plain, fair, paper, benchmark))
    print("\n".join(["", *map(clean, notes)]))
    try:
        make_folders(folder)
        write_atomic(folder / OUTPUT, _csv(plain, fair, paper, benchmark).encode())
    except OSError as error:
        raise ReportError(
            f"the table cannot be written to {folder} ({error.strerror}): give another folder with "
            "--out."
        ) from error
    print("\n" + clean(f"written: {folder / OUTPUT}"))


# ---- rows ----


@dataclass(frozen=True)
class OurRow(ResultRow):
    """A row of ours, with the fits it is made of."""

    group: FitGroup
    delta_m: Estimate | None
    """Δm% of the test data over seeds; None where it is undefined."""
    validation_delta_m: float
    """Δm% of the mean validation metrics, which selects one of several α; infinite if undefined."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.group.method

    @property
    def kind(self) -> tuple[str, float | None]:
        """Name of the method, and the α of its α-fair losses."""
        return self.method, self.group.options.get("loss_alpha")


@dataclass
class Line:
    """A method that we or the paper have."""

    method: str
    ours: OurRow | None = None
    paper: Mapping[str, str] = field(default_factory=dict)
    """Metric or summary → the number as printed."""
    rank: float | None = None
    """Our MR."""

    @property
    def label(self) -> str:
        """The label of our row, which shows its options, or else the method's name."""
        return self.method if self.ours is None else self.ours.label

    @property
    def seeds(self) -> int:
        """Number of our seeds."""
        return 0 if self.ours is None else len(self.ours.results)

    def alpha(self) -> float | None:
        """Return the α of our row, if it is FairGrad on plain losses."""
        if self.ours is None or self.method != "fairgrad":
            return None
        options = self.ours.group.options
        return float(options["method.alpha"]) if options.get("loss_alpha") is None else None

    def value(self, metric: str) -> Estimate | None:
        """Return our number of a metric or summary; None where there is none."""
        if self.ours is None:
            return None
        if metric == "mr":
            return None if self.rank is None else over_seeds([self.rank], 0)
        if metric == "delta_m":
            return self.ours.delta_m
        return over_seeds([result.metrics[metric] for result in self.ours.results], 0)


def _unfinished(fits: Sequence[FitFolder]) -> list[str]:
    """Return notes on the fits without a result: those that failed, with the cause, and others."""
    left_out = [fit for fit in fits if fit.result() is None]
    notes = [f"{fit.path} failed: {fault}" for fit in left_out if (fault := fit.fault())]
    paths = [str(fit.path) for fit in left_out if fit.fault() is None]
    return [*notes, *([f"Left out, because not finished: {', '.join(paths)}."] if paths else [])]


def _our_row(group: FitGroup, benchmark: Benchmark, notes: list[str]) -> OurRow | None:
    """Make a row of a group's complete seeds; add a note on the others."""
    partial = [str(seed) for seed, tasks in group.missing(benchmark).items() if tasks]
    if partial:
        notes.append(
            f"{group.label} is left out for seed {', '.join(partial)}, which does not have all "
            f"{len(benchmark.tasks)} tasks yet."
        )
    row = group.row(benchmark, group.label)
    if row is None:
        return None
    test, validation = None, None
    if benchmark.baseline is not None:
        metrics = [result.metrics for result in row.results]
        test = delta_m_or_none(metrics, benchmark.baseline, benchmark)
        validation = delta_m_or_none([row.mean("validation")], benchmark.baseline, benchmark)
    return OurRow(
        row.label,
        row.results,
        group,
        None if test is None else over_seeds(test, 0),
        math.inf if validation is None else validation[0],
    )


def _matched(rows: Sequence[OurRow], paper: PublishedTable, benchmark: Benchmark) -> list[Line]:
    """Return the paper's methods in its order, with ours where we have them, then our others.

    Of several rows of one method, such as FairGrad with different α, the best by validation is
    matched, as a search would select it. Our ranks are among the matched rows.
    """
    lines: list[Line] = []
    for method, numbers in paper.rows.items():
        lines.append(Line(method, _best(rows, method, None), numbers))
    matched = [line.ours for line in lines if line.ours is not None]
    ranks = mean_ranks([row for row in matched if row.method != SINGLE_TASK], benchmark)
    for line in lines:
        line.rank = None if line.ours is None else ranks.get(line.label)
    lines += [Line(row.method, row) for row in rows if not any(row is one for one in matched)]
    return sorted(lines, key=lambda line: line.method != SINGLE_TASK)


def _fair_lines(rows: Sequence[OurRow], paper: PublishedTable) -> list[Line]:
    """Return the paper's methods on α-fair losses, with ours where we have them."""
    return [
        Line(f"fair {method}", _best(rows, method, FAIR_ALPHA), numbers)
        for method, numbers in paper.fair.items()
    ]


def _best(rows: Sequence[OurRow], method: str, loss_alpha: float | None) -> OurRow | None:
    """Return the row of a method with the lowest validation Δm%; None if there is no row."""
    candidates = [row for row in rows if row.kind == (method, loss_alpha)]
    return min(candidates, key=lambda row: row.validation_delta_m, default=None)


def _lines_by_alpha(lines: Sequence[Line], paper: PublishedTable) -> list[Line]:
    """Return FairGrad by α with Δm% alone, ours and Table 5's; empty if the paper has none."""
    if not paper.alphas:
        return []
    ours = [(alpha, line.ours) for line in lines if (alpha := line.alpha()) is not None]
    missing = [(alpha, None) for alpha in paper.alphas if alpha not in dict(ours)]
    return [
        Line(
            f"fairgrad α={alpha:.10g}",
            row,
            {"delta_m": paper.alphas[alpha]} if alpha in paper.alphas else {},
        )
        for alpha, row in sorted([*ours, *missing], key=lambda pair: pair[0])
    ]


# ---- text ----


def _text(
    lines: Sequence[Line], fair: Sequence[Line], paper: PublishedTable, benchmark: Benchmark
) -> str:
    """Return the tables for the terminal."""
    arrows = {metric.name: "↑" if metric.higher_is_better else "↓" for metric in benchmark.metrics}
    metrics = {metric: f"{metric} {arrows[metric]}" for metric in paper.metrics}
    change = {"delta_m": "Δm% ↓"}
    head = [benchmark.name, ""]
    text = _table(head, lines, {**metrics, "mr": "MR ↓", **change}, paper)
    if fair:
        head = [f"loss_alpha={FAIR_ALPHA}, {paper.fair_table}", ""]
        text += ["", *_table(head, fair, {**metrics, **change}, paper)]
    if by_alpha := _lines_by_alpha(lines, paper):
        rows = [["FairGrad by α, Δm% ↓", "ours", "paper, Table 5"]]
        for line in by_alpha:
            ours = _number(line.value("delta_m"), paper.decimals("delta_m"))
            rows.append([line.label, ours, line.paper.get("delta_m", NONE)])
        text += ["", *text_table(rows)]
    return "\n".join(text)


def _table(
    head: Sequence[str], lines: Sequence[Line], columns: Mapping[str, str], paper: PublishedTable
) -> list[str]:
    """Tabulate ours above the paper's.

    Args:
        head: the first two cells of the head.
        lines: the methods.
        columns: metric or summary → title.
        paper: the published table, for the number of decimals.
    """
    rows = [[*head, *columns.values()]]
    for line in lines:
        if line.ours:
            seeds = f"ours, {line.seeds} seed{'' if line.seeds == 1 else 's'}"
            numbers = [_number(line.value(key), paper.decimals(key)) for key in columns]
            rows.append([line.label, seeds if line.paper else f"{seeds}; paper {NONE}", *numbers])
        if line.paper:
            names = ["", "paper"] if line.ours else [line.label, f"ours {NONE}; paper"]
            rows.append([*names, *(line.paper.get(key, NONE) for key in columns)])
    return text_table(rows)


def _number(value: Estimate | None, decimals: int) -> str:
    if value is None:
        return NONE
    error = "" if math.isnan(value.stderr) else f" ± {value.stderr:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{error}"


def _explanations(lines: Sequence[Line], paper: PublishedTable) -> list[str]:
    """Return sentences that explain the numbers."""
    parts = [paper.table]
    if paper.fair:
        parts.append(f"on α-fair losses {paper.fair_table}")
    if paper.alphas:
        parts.append("by α Table 5")
    if paper.also_in:
        parts.append(f"MR and Δm% also {paper.also_in}")
    notes = [f"The paper's numbers are those of {', '.join(parts)}."]
    ours = [line for line in lines if line.ours]
    if any(line.seeds > 1 for line in ours):
        notes.append("±: one standard error over seeds, which the paper does not print.")
    notes.append(f"Δm% of both is relative to {paper.single_task}.")
    ranked = sum(line.rank is not None for line in lines)
    if ranked:
        methods = len(paper.rows) - (SINGLE_TASK in paper.rows)
        notes.append(
            f"MR: ours among the {ranked} methods that both have, the paper's among its {methods}."
        )
    kinds = [line.ours.kind for line in ours if line.ours]
    for line in ours:
        if line.ours and line.paper and kinds.count(line.ours.kind) > 1:
            notes.append(
                f"Of our rows of {line.method}, the best by validation stands with the paper's: "
                f"{line.label}."
            )
    return notes


# ---- CSV ----


def _csv(
    lines: Sequence[Line], fair: Sequence[Line], paper: PublishedTable | None, benchmark: Benchmark
) -> str:
    """Return the text of paper_comparison.csv, described at the top of this file."""
    rows: list[list[object]] = [list(COLUMNS)]
    metrics = [metric.name for metric in benchmark.metrics]
    if paper is None:
        return csv_report(
            [*rows, *(cells for line in lines for cells in _cells("", line, metrics))]
        )
    for line in lines:
        rows += _cells(paper.table, line, [*metrics, *SUMMARIES])
    for line in fair:
        rows += _cells(paper.fair_table, line, [*metrics, *SUMMARIES[1:]])
    for line in _lines_by_alpha(lines, paper):
        rows += _cells("Table 5", line, ["delta_m"])
    return csv_report(rows)


def _cells(table: str, line: Line, metrics: Sequence[str]) -> list[list[object]]:
    names = [line.seeds, line.label] if line.ours else ["", ""]
    cells: list[list[object]] = []
    for metric in metrics:
        value = line.value(metric)
        numbers = [math.nan, math.nan] if value is None else [float(number) for number in value]
        mean, stderr = ("" if math.isnan(number) else number for number in numbers)
        printed = line.paper.get(metric, "")
        cells.append([table, line.method, names[1], metric, names[0], mean, stderr, printed])
    return cells
