"""Styles of figures, legible in print and with any colour vision, and the figure report.png."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mtrl_fairgrad.analysis.run_groups import RunGroup, blocks_of
from mtrl_fairgrad.analysis.statistics import Estimate
from mtrl_fairgrad.utils.clean_text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's palette for any colour vision, without yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Dash = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
INK, RULE, MUTED = "#1c2024", "#e4e4e4", "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # labels may contain dollar signs
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
LETTERS = 11
"""Letters of a legend in an inch of its width."""
WIDTH = 9.0
"""Width of report.png in inches."""
PANELS = 5
"""Panels in a row; more would leave no room for the longest task name."""
MOST_TASKS = 200
"""Largest number of tasks that have panels of their own."""


def shown(text: str, width: int = 0) -> str:
    """Return a string of a run folder as figures show it.

    Args:
        text: of any length, of which the first 1,000 characters are shown.
        width: characters in a line; 0 for one line.
    """
    line = shortened(clean(text), 1000)
    # Matplotlib would leave out the legend of a label that begins with an underscore.
    line = f" {line}" if line.startswith("_") else line
    # Matplotlib's own wrapping interprets dollar signs, whatever `text.parse_math` says.
    return "\n".join(textwrap.wrap(line, width)) if width else line


def shortened(name: str, length: int = 30) -> str:
    """Shorten a name to at most `length` letters; Meta-World's longest has 28."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def image(figure: Figure, kind: str, **options: Any) -> bytes:
    """Render a figure as `png`, `svg` or `pdf`; names may lack glyphs or room, which is visible."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(content, format=kind, **options)
    return content.getvalue()


class Style(NamedTuple):
    """Colour and dashes of a method in all figures of a report."""

    colour: int
    """Index into `COLOURS`."""
    dash: Dash

    @property
    def hex(self) -> str:
        """Hexadecimal colour."""
        return COLOURS[self.colour]


def styles(groups: Sequence[RunGroup]) -> dict[str, Style]:
    """Assign a style to each label, in the order of first appearance."""
    labels = dict.fromkeys(group.label for group in groups)
    return {
        label: Style(n % len(COLOURS), DASHES[n // len(COLOURS) % len(DASHES)])
        for n, label in enumerate(labels)
    }


def draw(groups: Sequence[RunGroup]) -> Figure:
    """Draw learning curves by protocol: the mean over tasks above a small panel for each task."""
    import matplotlib
    from matplotlib.figure import Figure

    blocks, style_of = blocks_of(groups), styles(groups)
    rows = [
        math.ceil(len(block[0].tasks) / PANELS) if 1 < len(block[0].tasks) <= MOST_TASKS else 0
        for block in blocks
    ]
    lines = [count_lines(map(_key, block)) for block in blocks]
    heights = [3.4 + 0.2 * m + 1.25 * n for m, n in zip(lines, rows, strict=True)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights)), dpi=200, layout="constrained")
        parts = figure.subfigures(
            len(blocks), 1, height_ratios=heights, squeeze=False, hspace=0.04
        )[:, 0]
        for part, block, count in zip(parts, blocks, rows, strict=True):
            _draw_block(part, block, count, style_of)
    return figure


def _draw_block(
    part: SubFigure, block: list[RunGroup], rows: int, style_of: Mapping[str, Style]
) -> None:
    tasks = block[0].tasks
    grid = part.add_gridspec(rows + 1, PANELS, height_ratios=[2.2, *[1.0] * rows])
    main = part.add_subplot(grid[0, :])
    for group in block:
        draw_curve(main, style_of[group.label], group.env_steps, group.curve, _key(group))
    set_axes(main, ticks=6)
    main.set_ylabel("success rate, mean over tasks" if rows else "success rate")
    main.set_xlabel("environment steps of each task")
    if any(len(group.seeds) > 1 for group in block):
        note = "lines: mean over seeds, bands: ± 1 standard error"
        main.set_title(note, loc="right", fontsize=7.5, color="#555555")
    part.suptitle(shown(block[0].protocol, width=95), fontsize=10, fontweight="bold")
    part.legend(
        loc="outside lower center", ncols=1 if max(len(group.label) for group in block) > 30 else 3
    )
    for k, task in enumerate(tasks if rows else ()):
        axes = part.add_subplot(grid[1 + k // PANELS, k % PANELS])
        for group in block:
            draw_curve(axes, style_of[group.label], group.env_steps, of_task(group, k), small=True)
        set_axes(axes, ticks=3)
        axes.set_title(shortened(shown(task)), fontsize=7.5)
        axes.tick_params(
            labelsize=7, labelleft=k % PANELS == 0, labelbottom=k + PANELS >= len(tasks)
        )


def _key(group: RunGroup) -> str:
    """Return a group's text in the legend."""
    seeds = f"{len(group.seeds)} seed{'s' if len(group.seeds) > 1 else ''}"
    return in_lines(f"{group.label}, {seeds}", WIDTH)


def in_lines(text: str, inches: float) -> str:
    """Return the text of a legend that is `inches` wide as it is shown, broken into lines."""
    return shown(text, round(LETTERS * inches))


def count_lines(texts: Iterable[str]) -> int:
    """Return the number of lines of all texts of a legend."""
    return sum(text.count("\n") + 1 for text in texts)


def of_task(group: RunGroup, k: int) -> Estimate:
    """Return the curve of task k, `[T]`."""
    return Estimate(group.per_task.mean[:, k], group.per_task.stderr[:, k])


def draw_curve(
    axes: Axes,
    style: Style,
    env_steps: Sequence[float],
    curve: Estimate,
    label: str = "",
    small: bool = False,
) -> None:
    """Draw a mean and a band of ± 1 standard error, which is NaN for one seed."""
    axes.plot(
        env_steps,
        curve.mean,
        linestyle=style.dash,
        color=style.hex,
        marker="o" if len(env_steps) == 1 or (not small and len(env_steps) <= 25) else "",
        markersize=3.5,
        linewidth=1.1 if small else 1.7,
        label=label,
        clip_on=False,  # draws curves at 0 or 1 in full width
    )
    if not np.isnan(curve.stderr).any():
        low, high = (np.clip(curve.mean + sign * curve.stderr, 0, 1) for sign in (-1, 1))
        axes.fill_between(env_steps, low, high, color=style.hex, alpha=0.18, linewidth=0)


def set_axes(axes: Axes, ticks: int) -> None:
    """Set up axes for success rates from 0 to 1 over environment steps."""
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6 if ticks > 3 else 3))
    set_steps_axis(axes, ticks)


def set_steps_axis(axes: Axes, ticks: int) -> None:
    """Label environment steps on the horizontal axis in short form, with about `ticks` ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: _short(steps)))


def _short(steps: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"
