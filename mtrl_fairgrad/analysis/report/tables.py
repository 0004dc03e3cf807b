"""The tables of a report, each made once as text in cells; `formats` and `page` only dress them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mtrl_fairgrad.analysis.report.protocol_blocks import Block, Improvement, cost, step_shares
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.analysis.statistics import ARRANGEMENTS, Interval, RankTest
from mtrl_fairgrad.config.guard import STOP
from mtrl_fairgrad.runs.fault_log import ANSWER_TEXTS, CONDITION_TEXTS, group_by_task

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Text in cells, `rows` as wide as `head`; the first column names a row, the others hold
    numbers or words.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    """Sentences to stand below it."""
    words: bool = False
    """Whether cells hold sentences rather than numbers."""

    @property
    def all_rows(self) -> list[list[str]]:
        """The heading and the rows."""
        return [self.head, *self.rows]

    def in_order(self, columns: list[int]) -> Table:
        """The same with its columns in another order."""
        rows = [[row[n] for n in columns] for row in self.rows]
        return replace(self, head=[self.head[n] for n in columns], rows=rows)


def overview(block: Block) -> Table:
    """A row for each group: how it began, ended, and was at its best."""
    head = ["method", "seeds", "env_steps", "untrained", "final", "best over course", "course mean"]
    rows = [
        [name, *_course(group)] for name, group in zip(row_names(block), block.groups, strict=True)
    ]
    return Table("Success rate, mean over tasks", head, rows, _notes(block))


def _course(group: RunGroup) -> list[str]:
    untrained = NOTHING if group.untrained is None else f"{group.curve.mean[group.untrained]:.3f}"
    best = f"{plus_minus(group.best.mean, group.best.stderr)} at {group.env_steps[group.best.evaluation]:,}"
    last = plus_minus(group.final.mean, group.final.stderr)
    course = plus_minus(*map(float, group.course))
    return [str(len(group.seeds)), f"{group.env_steps[-1]:,}", untrained, last, best, course]


def certainty(block: Block) -> Table:
    """A row for each group: intervals of the last evaluation, and what the training took."""
    head = ["last evaluation", "mean", "interquartile mean", "wall-clock", "updates/s"]
    rows: list[list[str]] = []
    for name, group in zip(row_names(block), block.groups, strict=True):
        took = cost(group)
        speed = NOTHING if math.isnan(took.updates_per_second) else f"{took.updates_per_second:.3g}"
        intervals = [with_interval(found) for found in (group.final_interval, group.final_iqm)]
        rows.append([name, *intervals, duration(took.wall_seconds), speed])
    notes = [
        "[ ]: 95 % intervals by stratified bootstrap, seeds resampled within each task; too narrow "
        "with few seeds, or where a seed's tasks succeed and fail together.",
        "Interquartile mean: of the middle half of all numbers of seeds and tasks (rliable).",
    ]
    if any(not math.isnan(cost(group).wall_seconds) for group in block.groups):
        notes.append(
            "Wall-clock: of all runs, added up, with evaluations; updates/s: median, all seeds of "
            "a run at once."
        )
    return Table(
        "How certain, and at what cost", head, rows, notes if _several_seeds(block) else notes[1:]
    )


def by_task(block: Block) -> Table:
    """A row for each task, a column for each group."""
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
    """For each network, a row for each task: how much of the steps its gradients made up; none for
    a single task.
    """
    if len(block.tasks) == 1:
        return []
    found: list[Table] = []
    for network in block.networks:
        shares = [step_shares(group, network) for group in block.groups]
        if all(one is None for one in shares):
            continue
        rows = [
            [task, *(NOTHING if one is None else f"{one[k]:.1%}" for one in shares)]
            for k, task in enumerate(block.tasks)
        ]
        note = (
            "Parts of the squared length of the direction, were the task gradients orthogonal: "
            "(w‖g‖)² over its sum over tasks, mean over the course; w and ‖g‖ are means over a "
            "run's seeds."
        )
        head = [f"part of the {network}'s steps", *column_names(block)]
        found.append(Table(f"Whom the {network}'s steps serve", head, rows, [note]))
    return found


def improvement(block: Block) -> Table | None:
    """Probability that the row's group beats the column's; None for one group."""
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
        "Probability that a seed of the row's method beats one of the column's on a task, ties "
        "counting half."
    ]
    if compared:
        notes.append(f"Compared at the last evaluation that both have, env_steps {at}.")
    head = ["row beats column", *column_names(block)]
    return Table("Probability of improvement", head, rows, notes)


def seed_ranks(block: Block) -> list[Table]:
    """How seeds rank at the end and over the course; none where no two groups have several seeds
    each.
    """
    cells = [cell for row in block.seed_ranks for cell in row if cell is not None]
    if all(math.isnan(cell.final.p) for cell in cells):
        return []
    note = (
        "Probability that a seed of the row's method has a higher mean over tasks than one of the "
        "column's, ties counting half, and in brackets the two-sided p of Mann and Whitney's rank "
        "test: by all arrangements of the "
        f"seeds or {ARRANGEMENTS:,} of them, not corrected for being one of several tests. At the "
        "end: in the last evaluation that both have; over the course: by the mean over their "
        "common evaluations."
    )
    found: list[Table] = []
    for which, when in (("final", "at the end"), ("course", "over the course")):
        rows = [
            [name, *(NOTHING if cell is None else _ranked(getattr(cell, which)) for cell in row)]
            for name, row in zip(row_names(block), block.seed_ranks, strict=True)
        ]
        found.append(
            Table(
                f"Whose seeds rank higher {when}",
                [f"row above column {when}", *column_names(block)],
                rows,
            )
        )
    return [*found[:-1], replace(found[-1], notes=[note])]


def _ranked(found: RankTest) -> str:
    return f"{found.probability:.2f}" + ("" if math.isnan(found.p) else f" ({found.p:.2g})")


def faults(block: Block) -> Table | None:
    """A row for each thing that went wrong in the updates of a seed; None where nothing did."""
    rows: list[list[str]] = []
    for name, group in zip(row_names(block), block.groups, strict=True):
        for same in group_by_task(group.faults):
            one, share = same[0], max(each.updates / max(each.of_updates, 1) for each in same)
            tasks = ", ".join(each.task for each in same if each.task) or "all"
            first = f"{min(each.first_update for each in same):,}"
            done = ANSWER_TEXTS.get(one.answer, one.answer)
            what = CONDITION_TEXTS.get(one.condition, one.condition)
            rows.append(
                [name, str(one.seed), one.network, what, tasks, f"{share:.2%}", first, done]
            )
    head = ["faults", "seed", "network", "what", "tasks", "of its updates", "first in", "answer"]
    notes = ["Of its updates: of the task where it happened most often."]
    return Table("What went wrong in updates", head, rows, notes, words=True) if rows else None


def _chance(cell: Improvement | None, short: bool) -> str:
    if cell is None:
        return NOTHING
    return f"{cell.probability.value:.2f}" if short else with_interval(cell.probability, digits=2)


def row_names(block: Block) -> list[str]:
    """What rows are called: labels, numbered where columns need numbers."""
    labels = [group.label for group in block.groups]
    return (
        [f"[{n}] {label}" for n, label in enumerate(labels, start=1)] if block.numbered else labels
    )


def column_names(block: Block) -> list[str]:
    """What columns are called: labels, or their numbers where labels would not fit."""
    labels = [group.label for group in block.groups]
    return [f"[{n}]" for n, _ in enumerate(labels, start=1)] if block.numbered else labels


def _several_seeds(block: Block) -> bool:
    return any(len(group.seeds) > 1 for group in block.groups)


def _notes(block: Block) -> list[str]:
    episodes = " or ".join(str(n) for n in sorted({group.episodes for group in block.groups}))
    notes = [
        f"Success rates; the final ones over {episodes} episodes of each task and seed.",
        "Best over course: the highest mean over seeds among all evaluations, hence optimistic.",
        "Course mean: the area below the learning curve over its length; only to be compared at "
        "equal env_steps.",
    ]
    if _several_seeds(block):
        notes.insert(1, "±: one standard error over seeds.")
    if block.groups[0].until is not None:
        notes.append(
            f"Only what was measured until env_steps {block.groups[0].until:,} counts; what went "
            "wrong in updates is told of whole runs."
        )
    notes += [f"{group.label}: {said}" for group in block.groups for said in _stopped(group)]
    notes += [
        f"{group.label}: {group.left_out} evaluations that not all its seeds have are left out."
        for group in block.groups
        if group.left_out
    ]
    notes += [
        f"{group.label}: simulator workers that died or hung and were replaced, which began "
        f"episodes anew: {replaced}."
        for group in block.groups
        if (replaced := sum(run.workers_replaced for run in group.metrics))
    ]
    return notes


def _stopped(group: RunGroup) -> list[str]:
    """What readers of its numbers must know of its seeds."""
    alone = group.config.get("agent.name") == "stl"
    return [
        f"{f'{one.task} of ' if alone else ''}seed {one.seed} learnt no more from update "
        f"{one.first_update:,} on; the "
        "numbers are those of what it had learnt by then."
        for one in {
            (each.seed, alone and each.task): each for each in group.faults if each.answer == STOP
        }.values()
    ]


# ---- cells ----


def plus_minus(mean: float, stderr: float) -> str:
    """`0.600 ± 0.100`, without the error where there is none."""
    return f"{mean:.3f}" if math.isnan(stderr) else f"{mean:.3f} ± {stderr:.3f}"


def with_interval(found: Interval, digits: int = 3) -> str:
    """`0.650 [0.400, 0.800]`, without the interval where there is none."""
    value = f"{found.value:.{digits}f}"
    return value if math.isnan(found.low) else f"{value} {ends(found, digits)}"


def ends(found: Interval, digits: int = 3) -> str:
    """`[0.400, 0.800]`."""
    return (
        NOTHING if math.isnan(found.low) else f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"
    )


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    if math.isnan(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
