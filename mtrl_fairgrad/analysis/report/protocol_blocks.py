"""Groups of runs under one protocol, and the statistics of several groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np

from mtrl_fairgrad.analysis import metric_curves
from mtrl_fairgrad.analysis.report.figure_style import Style, styles
from mtrl_fairgrad.analysis.run_groups import RunGroup, blocks_of, check_one_protocol
from mtrl_fairgrad.analysis.statistics import (
    Array,
    Interval,
    RankTest,
    mean_over_course,
    probability_of_improvement,
    rank_test,
)
from mtrl_fairgrad.runs.metric_entries import SPEED, WORKERS_REPLACED
from mtrl_fairgrad.runs.metrics_log import RunMetrics, Series

SEPARATOR = " · "
"""What stands between the parts of a protocol in one line."""


class Cost(NamedTuple):
    """Cost of a group's training."""

    wall_seconds: float
    """Sum over runs; NaN if one of them logged nothing."""
    updates_per_second: float
    """Median over log entries; an update trains all seeds of a run. NaN if nothing was logged."""


class Improvement(NamedTuple):
    """Probability that one group beats another."""

    probability: Interval
    env_steps: int
    """Last evaluation that both groups have, at which they are compared."""


class SeedRanks(NamedTuple):
    """Rank tests of the seeds of two groups, by their means over tasks."""

    final: RankTest
    """Test of the last evaluation that both groups have."""
    course: RankTest
    """Test of the mean over all evaluations that both have."""


@dataclass(frozen=True)
class Block:
    """Groups of one protocol and the same tasks, at least one."""

    groups: list[RunGroup]
    styles: dict[str, Style]
    """Style of each label, the same in all blocks of a report."""
    title: str = ""
    """Title of its chapter, see `titles`."""

    def __post_init__(self) -> None:
        check_one_protocol(self.groups)

    @property
    def protocol(self) -> str:
        """The protocol as one line."""
        return self.groups[0].protocol

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the task axis."""
        return self.groups[0].tasks

    @property
    def numbered(self) -> bool:
        """Whether tables name columns by numbers, since labels would not fit."""
        return len(self.groups) > 3

    @property
    def networks(self) -> list[str]:
        """Networks with logged metrics of their task gradients, critics first."""
        tags = {
            tag
            for group in self.groups
            for metrics in group.metrics
            for tag in metrics.series
            if tag not in (SPEED, WORKERS_REPLACED)
        }
        return sorted(
            {tag.partition("/")[0] for tag in tags}, key=lambda name: (name != "critic", name)
        )

    @cached_property
    def improvements(self) -> list[list[Improvement | None]]:
        """`[row][column]`: whether the row's group beats the column's.

        None for a group and itself, and without a common evaluation.
        """
        matrix: list[list[Improvement | None]] = [[None] * len(self.groups) for _ in self.groups]
        for i, j, x, y, steps in self._pairs():
            chance = probability_of_improvement(x[-1], y[-1])
            turned = Interval(*(1 - p for p in (chance.value, chance.high, chance.low)))
            matrix[i][j], matrix[j][i] = (
                Improvement(chance, steps[-1]),
                Improvement(turned, steps[-1]),
            )
        return matrix

    @cached_property
    def seed_ranks(self) -> list[list[SeedRanks | None]]:
        """`[row][column]`: rank tests of the row's and the column's seeds.

        None where `improvements` has None.
        """
        matrix: list[list[SeedRanks | None]] = [[None] * len(self.groups) for _ in self.groups]
        for i, j, x, y, steps in self._pairs():
            ends = rank_test(x[-1].mean(axis=1), y[-1].mean(axis=1))
            courses = rank_test(mean_over_course(x, steps), mean_over_course(y, steps))
            matrix[i][j] = SeedRanks(ends, courses)
            matrix[j][i] = SeedRanks(
                *(RankTest(1 - test.probability, test.p) for test in (ends, courses))
            )
        return matrix

    def _pairs(self) -> Iterator[tuple[int, int, Array, Array, list[int]]]:
        """Yield indices and success `[T, S, K]` of two groups, and env_steps, for all pairs.

        Restricted to the T evaluations that both groups have; pairs without any are left out.
        """
        for i, x in enumerate(self.groups):
            for j, y in enumerate(self.groups[:i]):
                common = sorted(set(x.env_steps) & set(y.env_steps))
                if common:
                    ours, theirs = (
                        group.success[np.isin(group.env_steps, common)] for group in (x, y)
                    )
                    yield i, j, ours, theirs, common


def make_blocks(groups: Sequence[RunGroup]) -> list[Block]:
    """Make the blocks of a report, with one style for each label in all of them."""
    style_of, blocks = styles(groups), blocks_of(groups)
    return [
        Block(block, style_of, title) for block, title in zip(blocks, titles(blocks), strict=True)
    ]


def titles(blocks: Sequence[Sequence[RunGroup]]) -> list[str]:
    """Title each block: its environment, then what no other block of this environment has.

    Blocks that differ in their tasks alone are numbered.
    """
    names = [
        str(block[0].config.get("env.name") or block[0].protocol.partition(SEPARATOR)[0])
        for block in blocks
    ]
    parts = [dict.fromkeys(block[0].protocol.split(SEPARATOR)[1:]) for block in blocks]
    found: list[str] = []
    for name, own in zip(names, parts, strict=True):
        rivals = [others for other, others in zip(names, parts, strict=True) if other == name]
        special = [part for part in own if not all(part in others for others in rivals)]
        found.append(f"{name}: {', '.join(special)}" if special else name)
    return [
        f"{title} ({found[: n + 1].count(title)})" if found.count(title) > 1 else title
        for n, title in enumerate(found)
    ]


def cost(group: RunGroup) -> Cost:
    """Compute wall-clock time and speed of a group's runs."""
    seconds = float(np.sum([run.wall_seconds for run in group.metrics]))
    speeds = [run.series[SPEED].values for run in group.metrics if SPEED in run.series]
    return Cost(seconds, float(np.median(np.concatenate(speeds))) if speeds else float("nan"))


def logged(group: RunGroup, tag: str) -> Series:
    """Average a metric's curve over a group's runs, weighted by seeds; empty if not logged."""
    return metric_curves.mean_curve(
        (run.series[tag], seeds) for run, seeds in _runs(group) if tag in run.series
    )


def negative_progress(group: RunGroup, network: str) -> Series:
    """Compute the share of updates that made some task worse; empty if not logged.

    Also empty if `NETWORK/worsened` was logged, which tells it of each seed and task.
    """
    if any(run.by_task(f"{network}/worsened") for run, _ in _runs(group)):
        return metric_curves.NO_ENTRIES
    parts = ((metric_curves.negative_progress(run, network), seeds) for run, seeds in _runs(group))
    # A share needs more entries in a bin than a mean.
    return metric_curves.mean_curve(
        ((series, seeds) for series, seeds in parts if series is not None), points=25
    )


def of_tasks(group: RunGroup, tag: str) -> tuple[Array, Array] | None:
    """Average the curves `tag/TASK` over a group's runs, in the order of `group.tasks`.

    Returns:
        env_steps `[N]` and values `[K, N]`; None if not logged for every task at the same steps.
    """
    curves = [logged(group, f"{tag}/{task}") for task in group.tasks]
    first = curves[0].env_steps
    if not len(first) or any(not np.array_equal(curve.env_steps, first) for curve in curves):
        return None
    return first, np.array([curve.values for curve in curves])


def over_tasks(group: RunGroup, tag: str) -> Series:
    """Average what was logged as `tag/TASK` over tasks; empty if not logged for all."""
    found = of_tasks(group, tag)
    return metric_curves.NO_ENTRIES if found is None else Series(found[0], found[1].mean(axis=0))


def spread(group: RunGroup, network: str) -> Series:
    """Divide the length of the longest task gradient by that of the shortest; empty if unknown."""
    found = of_tasks(group, f"{network}/task_gradient_norm")
    if found is None or len(group.tasks) == 1:
        return metric_curves.NO_ENTRIES
    steps, norms = found
    shortest = norms.min(axis=0)
    return Series(steps, norms.max(axis=0) / np.where(shortest > 0, shortest, np.nan))


def weight_shares(group: RunGroup, network: str) -> list[Series] | None:
    """Compute each task's weight relative to the mean over tasks, in the order of `group.tasks`.

    Returns:
        K series with the same steps; None if weights were not logged for every task at these.
    """
    found = of_tasks(group, f"{network}/weights")
    if found is None:
        return None
    steps, weights = found
    mean = weights.mean(axis=0)
    safe = np.where(mean == 0, np.nan, mean)
    return [Series(steps, weight / safe) for weight in weights]


def update_share(group: RunGroup, network: str) -> Array | None:
    """Compute each task's share of the squared update, as if gradients were orthogonal.

    Returns:
        `[K]` in the order of `group.tasks`: `(w_i‖g_i‖)²` over its sum over tasks, with means of w
        and ‖g‖ over a run's seeds; mean over log entries. None if either was not logged for every
        task.
    """
    shares: list[Array] = []
    counts: list[int] = []
    for run, seeds in _runs(group):
        logs = [run.by_task(f"{network}/{name}") for name in ("weights", "task_gradient_norm")]
        if any(task not in log for log in logs for task in group.tasks):
            return None
        series = [[log[task] for task in group.tasks] for log in logs]
        steps = reduce(np.intersect1d, (curve.env_steps for by_task in series for curve in by_task))
        common = [
            [curve.values[np.isin(curve.env_steps, steps)] for curve in by_task]
            for by_task in series
        ]
        parts = np.prod(np.array(common), axis=0) ** 2
        total = parts.sum(axis=0)
        valid = np.isfinite(total) & (total > 0)
        if not valid.any():
            return None
        shares.append((parts[:, valid] / total[valid]).mean(axis=1))
        counts.append(seeds)
    return np.average(shares, axis=0, weights=counts)


def _runs(group: RunGroup) -> list[tuple[RunMetrics, int]]:
    """Return metrics and number of seeds of each run."""
    return [
        (run, len(folder.config.get("seeds") or [0]))
        for run, folder in zip(group.metrics, group.folders, strict=True)
    ]
