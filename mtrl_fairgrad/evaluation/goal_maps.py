"""Goals that a policy reaches: goals.csv, a row per episode, and goals.png, a map per task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.analysis.report.figure_style import PANELS, STYLE, image, shortened, shown
from mtrl_fairgrad.runs.evaluation_table import known
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.text_tables import csv_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mtrl_fairgrad.envs.evaluation import EvaluationResult

PLACES = ("object_1", "goal")
"""Parts of the first observation that are mapped: positions of object and goal, in metres."""
COLUMNS = (
    *("env_steps", "seed", "task", "goal", "success", "return", "return_until_success"),
    *("steps", "steps_until_success"),
    *(f"{place}_{axis}" for place in PLACES for axis in "xyz"),
)
REACHED, MISSED = "#0072B2", "#D55E00"  # from Okabe and Ito's palette; the markers differ, too
HALF_WINDOW = 0.06
"""Smallest half width of a map in metres, for goals that hardly move."""


def positions(
    starts: NDArray[np.float32], identities: int, metaworld: bool = True
) -> NDArray[np.float32]:
    """Extract positions of object and goal from first observations.

    Args:
        starts: observations `[..., O]`.
        identities: number of one-hot task identities at their end.
        metaworld: whether the observations are Meta-World's.

    Returns:
        `[..., 2, 3]` in metres; NaN where the observation does not contain them.
    """
    from mtrl_fairgrad.envs.observation_layout import observation_parts

    parts = {part.name: part for part in observation_parts(starts.shape[-1], identities, metaworld)}
    unknown = np.full((*starts.shape[:-1], 3), np.nan, np.float32)
    places = [
        starts[..., parts[p].start : parts[p].stop] if p in parts else unknown for p in PLACES
    ]
    return np.stack(places, axis=-2)


def write(
    folder: Path,
    result: EvaluationResult,
    goals: NDArray[np.int64],
    places: NDArray[np.float32],
    seeds: Sequence[int],
    tasks: Sequence[str],
    env_steps: int,
    title: str,
) -> list[Path]:
    """Write goals.csv and goals.png; returns their paths.

    Args:
        folder: existing folder.
        result: results of the episodes, `[S, K, E]`.
        goals: indices of the goals, `[S, K, E]`.
        places: result of `positions`, `[S, K, E, 2, 3]`.
        seeds: the run's S seeds.
        tasks: names of the K tasks.
        env_steps: env_steps of the policy's checkpoint.
        title: title above the maps.
    """
    rows = [
        (
            *(env_steps, seed, task, goals[s, k, e], int(result.success[s, k, e])),
            *(known(result.returns[s, k, e]), known(result.returns_until_success[s, k, e])),
            *(result.lengths[s, k, e], result.lengths_until_success[s, k, e]),
            *("" if np.isnan(value) else f"{value:.4f}" for value in places[s, k, e].flat),
        )
        for s, seed in enumerate(seeds)
        for k, task in enumerate(tasks)
        for e in range(goals.shape[-1])
    ]
    figure = draw(result.success, goals, places, seeds, tasks, title)
    table, picture = folder / "goals.csv", folder / "goals.png"
    write_atomic(table, csv_report([COLUMNS, *rows]).encode())
    write_atomic(picture, image(figure, "png"))
    return [table, picture]


def draw(
    success: NDArray[np.bool_],
    goals: NDArray[np.int64],
    places: NDArray[np.float32],
    seeds: Sequence[int],
    tasks: Sequence[str],
    title: str,
) -> Figure:
    """Draw a panel per task with all seeds' goals, from above, or by number without positions."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    known = not np.isnan(places).any()
    rows, columns = math.ceil(len(tasks) / PANELS), min(len(tasks), PANELS)
    width = max(4.6, 1.9 * columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(width, 2.2 * rows + 0.9),
            dpi=200,
            layout=ConstrainedLayoutEngine(w_pad=0.1),
        )
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for k, (task, axes) in enumerate(zip(tasks, grid, strict=False)):
            if known:
                _draw_from_above(axes, places[:, k].reshape(-1, 2, 3), success[:, k].ravel())
            else:
                _draw_by_number(axes, goals[:, k], seeds, success[:, k])
            axes.set_title(f"{shortened(shown(task))}  {success[:, k].mean():.2f}", fontsize=7.5)
            axes.tick_params(labelsize=6)
        for axes in grid[len(tasks) :]:
            axes.set_axis_off()
        marks = [
            Line2D([], [], color=REACHED, marker="o", linestyle="", markersize=4, label="reached"),
            Line2D([], [], color=MISSED, marker="x", linestyle="", markersize=4, label="missed"),
        ]
        if known:
            marks.append(
                Line2D(
                    [],
                    [],
                    color="#bbbbbb",
                    linewidth=0.8,
                    label="from the object's start",
                )
            )
        note = "goals seen from above, in metres" if known else "goals by number"
        figure.suptitle(shown(title, width=round(12 * width)), fontsize=9, fontweight="bold")
        figure.legend(
            handles=marks,
            loc="outside lower center",
            ncols=3,
            fontsize=7.5,
            title=note,
            title_fontsize=7.5,
        )
    return figure


def _draw_from_above(axes: Axes, places: NDArray[np.float32], success: NDArray[np.bool_]) -> None:
    """Draw `places` `[N, 2, 3]`: a mark at each goal, a line from the object's initial position."""
    start, goal = places[:, 0, :2], places[:, 1, :2]
    axes.plot(
        *np.stack([start, goal]).transpose(2, 0, 1),
        color="#bbbbbb",
        linewidth=0.4,
        alpha=0.4,
        zorder=1,
    )
    _scatter(axes, goal[:, 0], goal[:, 1], success)
    both = np.concatenate([start, goal])
    middle = (both.min(0) + both.max(0)) / 2
    half = max(float(np.ptp(both, axis=0).max()) / 2 * 1.08, HALF_WINDOW)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.locator_params(nbins=3)


def _draw_by_number(
    axes: Axes, goals: NDArray[np.int64], seeds: Sequence[int], success: NDArray[np.bool_]
) -> None:
    """Draw goals `[S, E]` with their number on the horizontal axis, in a row per seed."""
    lines = np.broadcast_to(np.arange(len(seeds))[:, None], goals.shape)
    _scatter(axes, goals.ravel(), lines.ravel(), success.ravel())
    axes.set_yticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    axes.set_ylim(len(seeds) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4, integer=True)


def _scatter(
    axes: Axes, x: NDArray[np.number], y: NDArray[np.number], success: NDArray[np.bool_]
) -> None:
    axes.scatter(
        x[success], y[success], s=9, color=REACHED, marker="o", linewidths=0, alpha=0.8, zorder=2
    )
    axes.scatter(x[~success], y[~success], s=10, color=MISSED, marker="x", linewidths=0.8, zorder=3)
