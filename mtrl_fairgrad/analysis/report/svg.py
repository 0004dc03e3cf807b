"""Panels as inline SVG whose colours follow the page, and as PDF files for a publication."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from mtrl_fairgrad.analysis.report.charts import Panel
from mtrl_fairgrad.analysis.report.figure_style import COLOURS, INK, MUTED, RULE, STYLE, Dash, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLES = {
    **{colour.lower(): f"var(--c{n})" for n, colour in enumerate(COLOURS)},
    **{INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", "#ffffff": "var(--page)"},
}
"""The page's CSS variables by the colours that stand for them here."""
INLINE = {
    **STYLE,
    "svg.fonttype": "none",  # text stays text: small, sharp, selectable, in the reader's font
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def as_svg(panel: Panel, name: str, description: str) -> Markup:
    """A panel as an `<svg>` that fills its container's width.

    Args:
        panel: its title is left to the page.
        name: of this panel alone on the page, so that ids inside do not clash.
        description: for those who cannot see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    text = io.StringIO()
    with matplotlib.rc_context({**INLINE, "svg.hashsalt": name}):
        figure = Figure(figsize=panel.size, layout="constrained")
        panel.paint(figure.add_subplot())
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing, dpi=200)
    return _inline(text.getvalue(), description)


def _inline(svg: str, description: str) -> Markup:
    """Matplotlib's document as an element of a page: no header, no width, no font, no ids that
    every panel has.
    """
    head, _, body = svg[svg.index("<svg") :].partition(">")
    [box] = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'style="[^"]*"', _follow_page, body)
    return Markup('<svg {} role="img" aria-label="{}">{}').format(
        Markup(box), description, Markup(body)
    )


def _follow_page(style: re.Match[str]) -> str:
    """A style attribute with the page's colours and font."""
    unfonted = re.sub(r" ?font-family: [^;\"]*;?", "", style[0])
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: VARIABLES.get(colour[0], colour[0]), unfonted)


def as_pdf(
    panels: Sequence[Panel], protocol: str, legend: Sequence[tuple[str, Style]], columns: int
) -> bytes:
    """Panels side by side as one page of vector graphics, under the protocol.

    Args:
        panels: at least one.
        protocol: in words; stands on top.
        legend: label and style of each method; may be empty.
        columns: how many panels stand in a row.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (max(panel.size[n] for panel in panels) for n in (0, 1))
    image = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):  # TrueType, which publishers ask for
        size = (max(width * columns, 5.0), (height + 0.35) * rows + 0.5 + 0.2 * len(legend))
        figure = Figure(figsize=size, layout="constrained")
        for n, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, n + 1)
            panel.paint(axes)
            axes.set_title(panel.title, fontsize=8.5)
        figure.suptitle(protocol, fontsize=8, wrap=True)
        _legend(figure, legend)
        figure.savefig(image, format="pdf", metadata={"CreationDate": None})
    return image.getvalue()


def _legend(figure: Figure, legend: Sequence[tuple[str, Style]]) -> None:
    from matplotlib.lines import Line2D

    if legend:
        lines = [
            Line2D([], [], color=look.hex, linestyle=look.dash, label=label)
            for label, look in legend
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=1 if len(legend) < 4 else 2)


def swatch(colour: int, dash: Dash) -> Markup:
    """A short line as a legend's key."""
    dashes = {"-": "", "--": "6 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}[dash]
    return Markup(
        '<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path d="M1 4H23" fill="none" stroke-width="3" '
        'stroke="var(--c{})" stroke-dasharray="{}"/></svg>'
    ).format(colour, escape(dashes))
