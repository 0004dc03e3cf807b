"""Tables for the terminal, for Markdown and for LaTeX, and report.csv."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

from mtrl_fairgrad.analysis.report import paper_comparison
from mtrl_fairgrad.analysis.report.protocol_blocks import Block, cost
from mtrl_fairgrad.analysis.report.tables import (
    Table,
    by_task,
    certainty,
    faults,
    gradients,
    improvement,
    overview,
    seed_ranks,
    update_shares,
)
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.runs.fault_log import describe_all
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.text_tables import (
    csv_report,
    latex,
    latex_table,
    markdown,
    markdown_table,
    text_table,
)

CSV_COLUMNS = (
    *("protocol", "method", "task", "seeds", "episodes", "env_steps", "untrained"),
    *("final", "final_stderr", "best", "best_stderr", "best_env_steps"),
    *("final_low", "final_high", "final_iqm", "final_iqm_low", "final_iqm_high"),
    *("wall_seconds", "updates_per_second", "paper_best", "paper_best_stderr"),
    *("course", "course_stderr"),
)
SEPARATE = "Numbers of different protocols are neither averaged nor compared."

# ---- terminal ----


def as_text(blocks: Sequence[Block]) -> str:
    """Format the tables for the terminal."""
    text = "\n\n".join(_block_text(block) for block in blocks)
    return f"{text}\n\n{len(blocks)} protocols. {SEPARATE}" if len(blocks) > 1 else text


def _block_text(block: Block) -> str:
    tables = [overview(block)]
    if len(block.tasks) > 1:
        tables.append(by_task(block))
    tables += [
        table
        for table in (
            certainty(block),
            improvement(block),
            paper_comparison.table4_comparison(block, ours_only=True),
        )
        if table
    ]
    parts = [clean(block.protocol), *("\n".join(text_table(table.all_rows)) for table in tables)]
    notes = [note for table in tables for note in table.notes]
    notes += [
        f"{group.label}: {sentence}."
        for group in block.groups
        for sentence in describe_all(group.faults)
    ]
    notes = [line for note in notes for line in textwrap.wrap(clean(note), 118)]
    return "\n\n".join([*parts, "\n".join(notes)])


# ---- Markdown and LaTeX ----


def tables_of(block: Block) -> list[Table]:
    """Return the tables of a block for Markdown and LaTeX."""
    candidates = [
        overview(block),
        certainty(block),
        by_task(block),
        improvement(block),
        *seed_ranks(block),
        *update_shares(block),
        *gradients(block),
        paper_comparison.table4_comparison(block),
        paper_comparison.differences(block),
        faults(block),
    ]
    return [table for table in candidates if table is not None]


def as_markdown(blocks: Sequence[Block]) -> str:
    """Format the tables in GitHub's Markdown, each under its protocol."""
    lines = [f"{len(blocks)} protocols. {SEPARATE}", ""] if len(blocks) > 1 else []
    for block in blocks:
        lines += [f"## {markdown(block.title)}", "", markdown(block.protocol), ""]
        for table in tables_of(block):
            lines += [f"### {markdown(table.title)}", ""]
            lines += [*markdown_table(table.all_rows, table.words), ""]
            lines += [*(f"{markdown(note)}  " for note in table.notes), ""]
    return "\n".join(lines)


def as_latex(blocks: Sequence[Block]) -> str:
    r"""Tables for a document with `\usepackage{booktabs}`; captions name the protocol.

    Each table has a label, such as `tab:mt10:confidence-intervals-and-cost`.
    """
    lines, labels = [r"% \usepackage{booktabs}"], iter(latex_labels(blocks))
    if len(blocks) > 1:
        lines.append(f"% {len(blocks)} protocols. {SEPARATE}")
    for block in blocks:
        for table in tables_of(block):
            caption = " ".join([f"{table.title}.", *table.notes, f"Protocol: {block.protocol}."])
            lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{latex(caption)}}}"]
            lines += [rf"\label{{{next(labels)}}}"]
            lines += [*latex_table(table.all_rows, table.words), r"\end{table}"]
    return "\n".join([*lines, ""])


def latex_labels(blocks: Sequence[Block]) -> list[str]:
    """Return a label for each table of `as_latex`, of letters, digits, hyphens and colons."""
    labels = [
        ":".join(("tab", *filter(None, map(_slug, (block.title, table.title)))))
        for block in blocks
        for table in tables_of(block)
    ]
    counts = [labels[:n].count(label) for n, label in enumerate(labels)]
    return [
        f"{label}:{count + 1}" if count else label
        for label, count in zip(labels, counts, strict=True)
    ]


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


# ---- CSV ----


def as_csv(groups: Sequence[RunGroup]) -> str:
    """Return the content of report.csv, whose columns `mtrl_fairgrad.report` describes."""
    rows: list[Sequence[object]] = [CSV_COLUMNS]
    for group in groups:
        at = (group.untrained, len(group.env_steps) - 1, group.best.evaluation)
        curves = [("mean", group.curve.mean, group.curve.stderr)]
        curves += [
            (t, group.per_task.mean[:, k], group.per_task.stderr[:, k])
            for k, t in enumerate(group.tasks)
        ]
        for task, mean, stderr in curves:
            untrained = "" if at[0] is None else _cell(mean[at[0]])
            numbers = [_cell(values[t]) for t in at[1:] for values in (mean, stderr)]
            counts = [len(group.seeds), group.episodes, group.env_steps[-1]]
            row = [
                group.protocol,
                group.label,
                task,
                *counts,
                untrained,
                *numbers,
                group.env_steps[at[2]],
            ]
            extra = [_cell(value) for value in _whole_group(group)] if task == "mean" else []
            rows.append([*row, *extra, *[""] * (len(CSV_COLUMNS) - len(row) - len(extra))])
    return csv_report(rows)


def _whole_group(group: RunGroup) -> list[float]:
    """Return the columns that only the row for the mean over tasks has."""
    _, *final = group.final_interval
    return [
        *final,
        *group.final_iqm,
        *cost(group),
        *paper_comparison.table4_number(group),
        *map(float, group.course),
    ]


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
