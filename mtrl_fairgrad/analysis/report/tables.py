"""The tables of a report as text in cells, the same for all output formats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from mtrl_fairgrad.analysis.report.figure_style import shortened
from mtrl_fairgrad.analysis.report.protocol_blocks import (
    Block,
    Improvement,
    cost,
    logged,
    over_tasks,
    spread,
    update_share,
)
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.analysis.statistics import ARRANGEMENTS, Interval, RankTest
from mtrl_fairgrad.config.guard import STOP
from mtrl_fairgrad.runs.fault_log import RESPONSE_TEXTS, condition_text, group_by_task
from mtrl_fairgrad.utils.validation import MAX_NAME

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table; rows are as wide as `head`, and their first cell is their name."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list[str])
    """Sentences below the table."""
    words: bool = False
    """Whether cells hold text rather than numbers."""

    @property
    def all_rows(self) -> list[list[str]]:
        """The heading and the rows."""
        return [self.head, *self.rows]

    def in_order(self, columns: list[int]) -> Table:
        """Return the table with the given columns, by index."""
        rows = [[row[n] for n in columns] for row in self.rows]
        return replace(self, head=[self.head[n] for n in columns], rows=rows)


def overview(block: Block) -> Table:
    """Tabulate success by group: before training, at the end, at its best, and on average."""
    head = ["method", "seeds", "env_steps", "untrained", "final", "best over course", "course mean"]
    rows = [
        [name, *_course(group)] for name, group in zip(row_names(block), block.groups, strict=True)
    ]
    return Table("Success rate, mean over tasks", head, rows, _notes(block))


def _course(group: RunGroup) -> list[str]:
    untrained = NOTHING if group.untrained is None else f"{group.curve.mean[group.untrained]:.3f}"
    best_step = group.env_steps[group.best.evaluation]
    best = f"{plus_minus(group.best.mean, group.best.stderr)} at {best_step:,}"
    last = plus_minus(group.final.mean, group.final.stderr)
    course = plus_minus(*map(float, group.course))
    return [str(len(group.seeds)), f"{group.env_steps[-1]:,}", untrained, last, best, course]


def certainty(block: Block) -> Table:
    """Tabulate intervals of the last evaluation and cost of the training by group."""
    head = ["last evaluation", "mean", "interquartile mean", "wall-clock", "updates/s"]
    rows: list[list[str]] = []
    for name, group in zip(row_names(block), block.groups, strict=True):
        group_cost = cost(group)
        speed = (
            NOTHING
            if math.isnan(group_cost.updates_per_second)
            else f"{group_cost.updates_per_second:.3g}"
        )
        intervals = [
            with_interval(interval) for interval in (group.final_interval, group.final_iqm)
        ]
        rows.append([name, *intervals, duration(group_cost.wall_seconds), speed])
    notes = [
        "[ ]: 95 % intervals by stratified bootstrap, seeds resampled within each task; too narrow "
        "with few seeds, or if a seed's tasks succeed and fail together.",
        "Interquartile mean: mean of the middle half of all numbers of seeds and tasks (rliable).",
    ]
    if any(not math.isnan(cost(group).wall_seconds) for group in block.groups):
        notes.append(
            "Wall-clock: sum over runs, with evaluations; "
            "updates/s: median, all seeds of a run at once."
        )
    return Table(
        "Confidence intervals and cost", head, rows, notes if _several_seeds(block) else notes[1:]
    )


def by_task(block: Block) -> Table:
    """Tabulate final success by task and group."""
    rows: list[list[str]] = []
    for k, task in enumerate(block.tasks):
        last = [
            (group.per_task.mean[-1, k], group.per_task.stderr[-1, k]) for group in block.groups
        ]
        rows.append(
            [
                task,
                *(
                    plus_minus(mean, math.nan if block.numbered else stderr)
                    for mean, stderr in last
                ),
            ]
        )
    return Table("Final success rate by task", ["final, by task", *column_names(block)], rows)


def update_shares(block: Block) -> list[Table]:
    """Tabulate each task's share of the update, by network; empty for a single task."""
    if len(block.tasks) == 1:
        return []
    note = (
        "Share of the squared length of the update direction if the task gradients were "
        "orthogonal: (w‖g‖)² over its sum over tasks, mean over training; "
        "w and ‖g‖ are means over a run's seeds."
    )
    tables: list[Table] = []
    for network in block.networks:
        shares = [update_share(group, network) for group in block.groups]
        if all(share is None for share in shares):
            continue
        rows = [
            [task, *(NOTHING if share is None else f"{share[k]:.1%}" for share in shares)]
            for k, task in enumerate(block.tasks)
        ]
        title = f"Share of the {network} update by task"
        tables.append(
            Table(title, [f"share of the {network} update", *column_names(block)], rows, [note])
        )
    return tables


def gradients(block: Block) -> list[Table]:
    """Tabulate what the task gradients were like over training, by network.

    Networks without logged gradients are left out, and so is a single task.
    """
    head = ["longest / shortest", "mean cosine", "pairs in conflict", "signal", "tasks made worse"]
    note = (
        "Task gradients, mean over training: the median of the longest's length over the "
        "shortest's; cosine of two tasks' gradients, and how often it is negative; share of a "
        "gradient's squared length that is no noise of the batch; how often a task's loss grows "
        "along the update to first order. Lengths are means over a run's seeds."
    )
    tables: list[Table] = []
    for network in block.networks if len(block.tasks) > 1 else ():
        rows: list[list[str]] = []
        for name, group in zip(row_names(block), block.groups, strict=True):
            ratios = spread(group, network).values
            others = (
                logged(group, f"{network}/cosine/mean"),
                logged(group, f"{network}/cosine/share_negative"),
                over_tasks(group, f"{network}/signal"),
                over_tasks(group, f"{network}/worsened"),
            )
            middle = np.nanmedian(ratios) if np.isfinite(ratios).any() else None
            cells = [NOTHING if middle is None else f"{middle:,.{0 if middle >= 100 else 1}f}"]
            cells += [
                f"{each.values.mean():.2f}" if len(each.values) else NOTHING for each in others
            ]
            rows.append([name, *cells])
        if any(cell != NOTHING for row in rows for cell in row[1:]):
            title = f"Task gradients of the {network}"
            tables.append(Table(title, [f"{network}'s gradients", *head], rows, [note]))
    return tables


def improvement(block: Block) -> Table | None:
    """Tabulate the probability that the row's group beats the column's; None for one group."""
    if len(block.groups) == 1:
        return None
    rows = [
        [name, *(_chance(cell, short=block.numbered) for cell in row)]
        for name, row in zip(row_names(block), block.improvements, strict=True)
    ]
    compared = sorted(
        {cell.env_steps for row in block.improvements for cell in row if cell is not None}
    )
    at = " or ".join(f"{step:,}" for step in compared)
    notes = [
        "Probability that a seed of the row's method beats one of the column's on a task; "
        "ties count half."
    ]
    if compared:
        notes.append(f"Compared at the last evaluation that both have, env_steps {at}.")
    head = ["row beats column", *column_names(block)]
    return Table("Probability of improvement", head, rows, notes)


def seed_ranks(block: Block) -> list[Table]:
    """Tabulate rank tests of seeds, at the end and over training; empty for single seeds."""
    cells = [cell for row in block.seed_ranks for cell in row if cell is not None]
    if all(math.isnan(cell.final.p) for cell in cells):
        return []
    tables: list[Table] = []
    test = (
        "In brackets: two-sided p of Mann and Whitney's rank test, by all arrangements of the "
        f"seeds or {ARRANGEMENTS:,} of them, not corrected for multiple tests."
    )
    for which, when, mean in (
        ("final", "at the end", "in the last evaluation that both have"),
        ("course", "over training", "over their common evaluations"),
    ):
        rows = [
            [name, *(NOTHING if cell is None else _rank(getattr(cell, which)) for cell in row)]
            for name, row in zip(row_names(block), block.seed_ranks, strict=True)
        ]
        head = [f"row above column {when}", *column_names(block)]
        # Complete for each table, since in a paper each is a float of its own.
        note = (
            "Probability that a seed of the row's method has a higher mean over tasks than one of "
            f"the column's, {mean}; ties count half."
        )
        tables.append(Table(f"Rank test of seeds {when}", head, rows, [note, test]))
    return tables


def _rank(test: RankTest) -> str:
    return f"{test.probability:.2f}" + ("" if math.isnan(test.p) else f" ({test.p:.2g})")


def faults(block: Block) -> Table | None:
    """Tabulate the numerical faults by seed; None without any."""
    rows: list[list[str]] = []
    for name, group in zip(row_names(block), block.groups, strict=True):
        for same in group_by_task(group.faults):
            first = same[0]
            share = max(fault.updates / max(fault.of_updates, 1) for fault in same)
            rows.append(
                [
                    name,
                    str(first.seed),
                    first.network,
                    condition_text(first),
                    shortened(", ".join(fault.task for fault in same if fault.task), MAX_NAME)
                    or "all",
                    f"{share:.2%}",
                    f"{min(fault.first_update for fault in same):,}",
                    RESPONSE_TEXTS.get(first.response, first.response),
                ]
            )
    head = ["faults", "seed", "network", "condition", "tasks", "updates", "first in", "response"]
    notes = ["Updates: share of all updates, for the task with the highest share."]
    return Table("Numerical faults in updates", head, rows, notes, words=True) if rows else None


def _chance(cell: Improvement | None, short: bool) -> str:
    if cell is None:
        return NOTHING
    return f"{cell.probability.value:.2f}" if short else with_interval(cell.probability, digits=2)


def row_names(block: Block) -> list[str]:
    """Return the names of rows: labels, numbered if columns are named by numbers."""
    labels = [group.label for group in block.groups]
    return (
        [f"[{n}] {label}" for n, label in enumerate(labels, start=1)] if block.numbered else labels
    )


def column_names(block: Block) -> list[str]:
    """Return the names of columns: labels, or numbers if labels would not fit."""
    labels = [group.label for group in block.groups]
    return [f"[{n}]" for n, _ in enumerate(labels, start=1)] if block.numbered else labels


def _several_seeds(block: Block) -> bool:
    return any(len(group.seeds) > 1 for group in block.groups)


def _notes(block: Block) -> list[str]:
    episodes = " or ".join(str(n) for n in sorted({group.episodes for group in block.groups}))
    notes = [
        f"Success rates; the final ones over {episodes} episodes of each task and seed.",
        "Best over course: the highest mean over seeds among all evaluations, hence optimistic.",
        "Course mean: the area below the learning curve over its length; "
        "compare it at equal env_steps only.",
    ]
    if _several_seeds(block):
        notes.insert(1, "±: one standard error over seeds.")
    if block.groups[0].until is not None:
        notes.append(
            f"Evaluations and metrics until env_steps {block.groups[0].until:,}; "
            "numerical faults of whole runs."
        )
    for group in block.groups:
        notes += [f"{group.label}: {note}" for note in _stopped_seeds(group)]
    for group in block.groups:
        if group.left_out:
            notes.append(
                f"{group.label}: {group.left_out} evaluations that not all its seeds have "
                "are left out."
            )
    for group in block.groups:
        if replaced := sum(run.workers_replaced for run in group.metrics):
            notes.append(
                f"{group.label}: {replaced} simulator workers died or hung and were replaced, "
                "which restarted their episodes."
            )
    return notes


def _stopped_seeds(group: RunGroup) -> list[str]:
    """Return a note for each seed (and task, of single-task agents) whose training stopped."""
    single_task = group.config.get("agent.name") == "stl"
    stopped = {
        (fault.seed, single_task and fault.task): fault
        for fault in group.faults
        if fault.response == STOP
    }
    return [
        f"training of {f'{fault.task} of ' if single_task else ''}seed {fault.seed} stopped at "
        f"update {fault.first_update:,}; its numbers are those of the policy at that point."
        for fault in stopped.values()
    ]


# ---- cells ----


def plus_minus(mean: float, stderr: float) -> str:
    """Format as `0.600 ± 0.100`, or `0.600` if the error is NaN."""
    return f"{mean:.3f}" if math.isnan(stderr) else f"{mean:.3f} ± {stderr:.3f}"


def with_interval(interval: Interval, digits: int = 3) -> str:
    """Format as `0.650 [0.400, 0.800]`, or `0.650` if the interval is NaN."""
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def duration(seconds: float) -> str:
    """Format as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    if math.isnan(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
