"""Figures as files: panels as SVG for the HTML page and as PDF for publications, and report.png."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.analysis.report import charts
from mtrl_fairgrad.analysis.report.charts import Panel
from mtrl_fairgrad.analysis.report.figure_style import (
    STYLE,
    Style,
    count_lines,
    draw,
    image,
    in_lines,
    shown,
)
from mtrl_fairgrad.analysis.report.protocol_blocks import Block
from mtrl_fairgrad.analysis.run_groups import RunGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG_STYLE: dict[Any, Any] = {
    **STYLE,
    "svg.fonttype": "none",  # text stays text: small and sharp
    "svg.hashsalt": "mtrl-fairgrad",  # the same panel gives the same file
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
PDF_STYLE: dict[Any, Any] = {**STYLE, "pdf.fonttype": 42}  # TrueType, which publishers require


def as_png(groups: Sequence[RunGroup]) -> bytes:
    """Render the learning curves of groups as PNG, for report.png."""
    return image(draw(groups), "png")


def as_svg(panel: Panel, size: tuple[float, float] | None = None) -> bytes:
    """Render a panel as SVG with a transparent background, without its title.

    Args:
        panel: the panel.
        size: width and height in inches; the panel's own by default.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=size or panel.size, layout="constrained")
        panel.paint(figure.add_subplot())
        no_metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
        return image(figure, "svg", metadata=no_metadata, dpi=200)


def conflicts_as_png(block: Block) -> bytes | None:
    """Render what `charts.conflicts` has of both networks as PNG; None if nothing was logged."""
    panels = charts.conflicts(block)
    if not panels:
        return None
    return _page(panels, block.protocol, _keys(block), 4, "png", dpi=150)


def as_pdf(
    panels: Sequence[Panel], protocol: str, legend: Sequence[tuple[str, Style]], columns: int
) -> bytes:
    """Render a grid of panels as PDF on one page, under the protocol.

    Args:
        panels: one or more panels.
        protocol: title of the page.
        legend: label and style of each method; may be empty.
        columns: number of panels in a row.
    """
    return _page(panels, protocol, legend, columns, "pdf", metadata={"CreationDate": None})


def _page(
    panels: Sequence[Panel],
    protocol: str,
    legend: Sequence[tuple[str, Style]],
    columns: int,
    kind: str,
    **options: Any,
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (max(panel.size[n] for panel in panels) for n in (0, 1))
    page = max(width * columns, 5.0)
    keys = [(in_lines(label, page), style) for label, style in legend]
    with matplotlib.rc_context(PDF_STYLE):
        size = (page, (height + 0.35) * rows + 0.5 + 0.2 * count_lines(text for text, _ in keys))
        figure = Figure(figsize=size, layout="constrained")
        for n, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, n + 1)
            panel.paint(axes)
            axes.set_title(shown(panel.title), fontsize=8.5)
        figure.suptitle(shown(protocol, width=round(14 * page)), fontsize=8)
        _legend(figure, keys)
        return image(figure, kind, **options)


def pdf_figures(blocks: Sequence[Block]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of a report's PDF files, numbered by block if there are several."""
    for n, block in enumerate(blocks, start=1):
        ending = f"-{n}.pdf" if len(blocks) > 1 else ".pdf"
        legend = _keys(block)
        tasks = charts.task_curves(block)
        intervals = charts.intervals(block)
        conflicts = charts.conflicts(block)
        weights, _ = charts.weights(block)
        yield f"curves{ending}", as_pdf([charts.curve(block)], block.protocol, legend, 1)
        yield f"heatmap{ending}", as_pdf([charts.heat_map(block)], block.protocol, [], 1)
        if tasks:
            yield f"tasks{ending}", as_pdf(tasks, block.protocol, legend, 5)
        if intervals is not None:
            yield f"intervals{ending}", as_pdf([intervals], block.protocol, [], 1)
        if conflicts:
            yield f"conflict{ending}", as_pdf(conflicts, block.protocol, legend, 2)
        if weights:
            yield f"weights{ending}", as_pdf(weights, block.protocol, [], 2)


def _keys(block: Block) -> list[tuple[str, Style]]:
    """Return label and style of each method."""
    return [(group.label, block.styles[group.label]) for group in block.groups]


def _legend(figure: Figure, keys: Sequence[tuple[str, Style]]) -> None:
    """Draw the legend, in two columns if there are many short texts."""
    from matplotlib.lines import Line2D

    if keys:
        lines = [
            Line2D([], [], color=style.hex, linestyle=style.dash, label=text)
            for text, style in keys
        ]
        short = all(in_lines(text, figure.get_figwidth() / 2) == text for text, _ in keys)
        columns = 2 if short and len(keys) >= 4 else 1
        figure.legend(handles=lines, loc="outside lower center", ncols=columns)
