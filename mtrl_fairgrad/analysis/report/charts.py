"""The figures of a report as panels: a title, a size and a function that draws on axes.

The HTML page shows each panel as an image of its own, a PDF shows them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtrl_fairgrad.analysis.report.figure_style import (
    MOST_TASKS,
    MUTED,
    draw_curve,
    of_task,
    set_axes,
    set_steps_axis,
    shortened,
    shown,
)
from mtrl_fairgrad.analysis.report.protocol_blocks import (
    Block,
    logged,
    negative_progress,
    over_tasks,
    spread,
    weight_shares,
)
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.analysis.statistics import Interval
from mtrl_fairgrad.runs.metrics_log import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECT = 4
"""Largest number of curves with labels at their ends; more would collide."""
RATIO = 8.0
"""The colour scale of task weights covers 1/RATIO to RATIO times the mean weight."""
EVEN = 0.05
"""Weights within this relative distance of their mean are even."""


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    paint: Callable[[Axes], None]
    size: tuple[float, float] = (4.6, 2.9)
    """Width and height in inches, on a page."""


def curve(block: Block) -> Panel:
    """Plot learning curves, mean over tasks."""

    def paint(axes: Axes) -> None:
        for group in block.groups:
            draw_curve(axes, block.styles[group.label], group.env_steps, group.curve)
        set_axes(axes, ticks=6)
        axes.set_xlabel("environment steps of each task")
        axes.set_ylabel("success rate")
        _label_ends(axes, block)

    return Panel("Success rate, mean over tasks", paint)


def task_curves(block: Block) -> list[Panel]:
    """Plot the learning curves of each task; empty for a single task or too many, see `curve`."""

    def painter(k: int) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            for group in block.groups:
                draw_curve(
                    axes, block.styles[group.label], group.env_steps, of_task(group, k), small=True
                )
            set_axes(axes, ticks=3)

        return paint

    tasks = block.tasks if 1 < len(block.tasks) <= MOST_TASKS else []
    return [Panel(task, painter(k), (2.1, 1.35)) for k, task in enumerate(tasks)]


def intervals(block: Block) -> Panel | None:
    """Plot interquartile mean and mean of the last evaluation; None without intervals."""
    if all(np.isnan(group.final_iqm.low) for group in block.groups):
        return None

    def paint(axes: Axes) -> None:
        for n, group in enumerate(block.groups):
            colour = block.styles[group.label].hex
            _interval(axes, n, group.final_iqm, colour, filled=True)
            _interval(axes, n + 0.2, group.final_interval, colour, filled=False)
            axes.annotate(
                shown(group.label),
                (0, n - 0.17),
                xycoords=("axes fraction", "data"),
                xytext=(2, 0),
                textcoords="offset points",
            )
        axes.set_ylim(len(block.groups) - 0.55, -0.55)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        axes.set_xlabel("success rate of the last evaluation")

    return Panel("Interquartile mean and mean", paint, (4.6, 0.7 + 0.5 * len(block.groups)))


def _interval(axes: Axes, y: float, interval: Interval, colour: str, filled: bool) -> None:
    if not np.isnan(interval.low):
        axes.plot(
            [interval.low, interval.high],
            [y, y],
            color=colour,
            linewidth=3.2 if filled else 1.2,
            alpha=0.55,
        )
    marker, face = ("o", colour) if filled else ("D", "#ffffff")
    axes.plot(
        [interval.value],
        [y],
        marker=marker,
        color=colour,
        markerfacecolor=face,
        markersize=6 if filled else 4.5,
    )


def heat_map(block: Block) -> Panel:
    """Plot the final success rate of each task and group, as colours and numbers."""

    def paint(axes: Axes) -> None:
        values = np.array([group.per_task.mean[-1] for group in block.groups]).T
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (k, g), value in np.ndenumerate(values):
            axes.text(
                g,
                k,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="#ffffff" if value > 0.55 else "#1c2024",
            )
        axes.set_yticks(range(len(block.tasks)), [shortened(shown(task)) for task in block.tasks])
        labels = [shown(group.label) for group in block.groups]
        turned: dict[str, Any] = (
            {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            if len("".join(labels)) > 50
            else {}
        )
        axes.set_xticks(range(len(labels)), labels, **turned)
        axes.grid(visible=False)

    return Panel(
        "Final success rate by task",
        paint,
        (3.0 + 0.9 * len(block.groups), 0.8 + 0.26 * len(block.tasks)),
    )


# ---- conflict between tasks ----


CurveOf = Callable[[RunGroup, str], Series]


class Quantity(NamedTuple):
    """What is plotted for each network."""

    title: str
    curve: CurveOf
    """Of a group's network; empty if not logged."""
    set_axis: Callable[[Axes, np.ndarray], None]
    """Sets the vertical axis up for the values of all curves, which are drawn."""


def _share(axes: Axes, values: np.ndarray) -> None:
    axes.set_ylim(0, 1)
    for line in axes.lines:
        line.set_clip_on(False)  # draws curves at 0 or 1 in full width


def _signed(axes: Axes, values: np.ndarray) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)


def _estimated_share(axes: Axes, values: np.ndarray) -> None:
    _signed(axes, values)
    axes.set_ylim(-0.25, 1)  # outliers of the estimate would flatten the curve


def _logarithmic(axes: Axes, values: np.ndarray) -> None:
    """Set a logarithmic axis of whole decades if any value is positive; solvers may reach zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    positive = values[values > 0]
    if not len(positive):
        return
    axes.set_yscale("log", nonpositive="clip")
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0e}" if value < 0.01 else f"{value:g}")
    )


def _of(curve: CurveOf, name: str) -> CurveOf:
    """Return the curve of what networks log under this name."""
    return lambda group, network: curve(group, f"{network}/{name}")


QUANTITIES = (
    Quantity("mean cosine between task gradients", _of(logged, "cosine/mean"), _signed),
    Quantity("share of task pairs in conflict", _of(logged, "cosine/share_negative"), _share),
    Quantity("longest over shortest task gradient", spread, _logarithmic),
    Quantity("signal in task gradients", _of(over_tasks, "signal"), _estimated_share),
    Quantity("share of tasks made worse", _of(over_tasks, "worsened"), _share),
    Quantity("share of updates that made some task worse", negative_progress, _share),
    Quantity("relative residual of the method's equation", _of(logged, "residual"), _logarithmic),
)


def conflicts(block: Block) -> list[Panel]:
    """Plot the conflict between task gradients by network; only quantities that were logged."""
    panels: list[Panel] = []
    for quantity in QUANTITIES:
        for network in block.networks:
            curves = {group.label: quantity.curve(group, network) for group in block.groups}
            if any(len(curve.env_steps) for curve in curves.values()):
                title = f"{network}: {quantity.title}"
                panels.append(_curve_panel(block, title, curves, quantity.set_axis))
    return panels


def _curve_panel(
    block: Block,
    title: str,
    curves: dict[str, Series],
    set_axis: Callable[[Axes, np.ndarray], None],
) -> Panel:
    def paint(axes: Axes) -> None:
        for label, series in curves.items():
            style = block.styles[label]
            marker = "o" if len(series.env_steps) == 1 else ""
            axes.plot(*series, color=style.hex, linestyle=style.dash, linewidth=1.5, marker=marker)
        set_axis(axes, np.concatenate([series.values for series in curves.values()]))
        axes.set_xlim(0, max(group.env_steps[-1] for group in block.groups) or None)
        set_steps_axis(axes, ticks=4)

    return Panel(title, paint, (3.4, 2.0))


def weights(block: Block) -> tuple[list[Panel], list[str]]:
    """Plot the tasks' weights over training.

    Returns:
        A panel for each group and network with different weights, and the names of those with even
        weights (see `EVEN`).
    """
    panels, even = list[Panel](), list[str]()
    for group in block.groups:
        for network in block.networks:
            shares = weight_shares(group, network) if len(group.tasks) > 1 else None
            if shares is None:
                continue
            name, ratios = f"{network}: {group.label}", np.array([share.values for share in shares])
            if np.allclose(ratios, 1, rtol=0, atol=EVEN):
                even.append(name)
            else:
                panels.append(_weight_panel(name, group.tasks, shares[0].env_steps, ratios))
    return panels, even


def _weight_panel(title: str, tasks: list[str], env_steps: np.ndarray, ratios: np.ndarray) -> Panel:
    def paint(axes: Axes) -> None:
        edges = env_steps[0], env_steps[-1] if len(env_steps) > 1 else env_steps[0] + 1
        axes.imshow(
            weight_colours(ratios),
            aspect="auto",
            interpolation="nearest",
            extent=(*edges, len(tasks), 0),
        )
        axes.set_yticks(np.arange(len(tasks)) + 0.5, [shortened(shown(task)) for task in tasks])
        axes.tick_params(left=False, labelsize=8)
        axes.grid(visible=False)
        set_steps_axis(axes, ticks=3)

    return Panel(title, paint, (4.0, 0.5 + 0.19 * len(tasks)))


def weight_colours(ratios: np.ndarray) -> np.ndarray:
    """Colour weights relative to their mean: `[K, N]` → RGBA `[K, N, 4]`.

    Blue above the mean and vermilion below; opacity is the distance from the mean on a logarithmic
    scale. Weights that are not positive get the colour of the smallest ratio.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        far = np.log(np.where(ratios > 0, ratios, 1 / RATIO)) / np.log(RATIO)
    far = np.clip(np.nan_to_num(far), -1, 1)[..., None]
    colours = np.where(far > 0, (0, 114 / 255, 178 / 255), (213 / 255, 94 / 255, 0))
    return np.concatenate([colours, np.abs(far)], axis=-1)


# ---- labels at the ends of curves ----


def short_labels(block: Block) -> list[str] | None:
    """Return labels for the ends of curves, group labels or method names; None if too long."""
    labels = [group.label for group in block.groups]
    names = [
        str(group.config.get("method.name", label))
        for group, label in zip(block.groups, labels, strict=True)
    ]
    if len(labels) > DIRECT:
        return None
    return next(
        (
            texts
            for texts in (labels, names)
            if max(map(len, texts)) <= 18 and len({*texts}) == len(texts)
        ),
        None,
    )


def _label_ends(axes: Axes, block: Block) -> None:
    labels = short_labels(block)
    if labels is None:
        return
    ends = [float(group.curve.mean[-1]) for group in block.groups]
    for y, (label, group) in zip(_apart(ends), zip(labels, block.groups, strict=True), strict=True):
        colour = block.styles[group.label].hex
        axes.annotate(
            shown(label),
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def _apart(ends: list[float], gap: float = 0.075) -> Iterator[float]:
    """Yield heights near the given ones in [0, 1], at least `gap` apart, in the same order."""
    order = np.argsort(ends, kind="stable")
    placed = np.array(ends, np.float64)[order]
    for n in range(1, len(placed)):
        placed[n] = max(placed[n], placed[n - 1] + gap)
    placed[-1] = min(placed[-1], 1.0)
    for n in range(len(placed) - 2, -1, -1):
        placed[n] = min(placed[n], placed[n + 1] - gap)
    heights = np.empty_like(placed)
    heights[order] = placed
    return iter(heights.tolist())
