"""The figure of a report: learning curves, legible in print and for any colour vision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl_fairgrad.metrics import Estimate
from mtrl_fairgrad.pooling import Group, blocks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's colours, which people with any colour vision can tell apart; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
PANELS = 5  # in a row; more would not leave room for the longest task name


def draw(groups: Sequence[Group]) -> Figure:
    """Learning curves: the mean over tasks on top, one small panel per task below; one block per protocol."""
    import matplotlib
    from matplotlib.figure import Figure

    blocks = blocks_of(groups)
    rows = [math.ceil(len(block[0].tasks) / PANELS) if len(block[0].tasks) > 1 else 0 for block in blocks]
    heights = [3.4 + 0.2 * len(block) + 1.25 * n for block, n in zip(blocks, rows, strict=True)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, sum(heights)), dpi=200, layout="constrained")
        parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False, hspace=0.04)[:, 0]
        for part, block, count in zip(parts, blocks, rows, strict=True):
            _draw_block(part, block, count)
    return figure


def _draw_block(part: SubFigure, block: list[Group], rows: int) -> None:
    tasks = block[0].tasks
    grid = part.add_gridspec(rows + 1, PANELS, height_ratios=[2.2, *[1.0] * rows])
    main = part.add_subplot(grid[0, :])
    for n, group in enumerate(block):
        seeds = f"{len(group.seeds)} seed{'s' if len(group.seeds) > 1 else ''}"
        _draw_curve(main, n, group.env_steps, group.curve, f"{group.label}, {seeds}")
    _dress(main, ticks=6)
    main.set_ylabel("success rate, mean over tasks" if rows else "success rate")
    main.set_xlabel("environment steps of each task")
    if any(len(group.seeds) > 1 for group in block):
        note = "lines: mean over seeds, bands: ± 1 standard error"
        main.set_title(note, loc="right", fontsize=7.5, color="#555555")
    part.suptitle(block[0].protocol, fontsize=10, fontweight="bold", wrap=True)
    part.legend(loc="outside lower center", ncols=1 if max(len(group.label) for group in block) > 30 else 3)
    for k, task in enumerate(tasks if rows else ()):
        axes = part.add_subplot(grid[1 + k // PANELS, k % PANELS])
        for n, group in enumerate(block):
            curve = Estimate(group.per_task.mean[:, k], group.per_task.stderr[:, k])
            _draw_curve(axes, n, group.env_steps, curve, small=True)
        _dress(axes, ticks=3)
        axes.set_title(task, fontsize=7.5)
        axes.tick_params(labelsize=7, labelleft=k % PANELS == 0, labelbottom=k + PANELS >= len(tasks))


def _draw_curve(
    axes: Axes, n: int, env_steps: list[int], curve: Estimate, label: str = "", small: bool = False
) -> None:
    axes.plot(
        env_steps,
        curve.mean,
        linestyle=DASHES[n // len(COLOURS) % len(DASHES)],
        color=COLOURS[n % len(COLOURS)],
        marker="o" if len(env_steps) == 1 or (not small and len(env_steps) <= 25) else "",
        markersize=3.5,
        linewidth=1.1 if small else 1.7,
        label=label,
        clip_on=False,  # a curve at 0 or 1 keeps its full width
    )
    if not np.isnan(curve.stderr).any():
        low, high = (np.clip(curve.mean + sign * curve.stderr, 0, 1) for sign in (-1, 1))
        axes.fill_between(env_steps, low, high, color=COLOURS[n % len(COLOURS)], alpha=0.18, linewidth=0)


def _dress(axes: Axes, ticks: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6 if ticks > 3 else 3))
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: _short(steps)))


def _short(steps: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"
