"""The report as one self-contained HTML page: figures and videos embedded, all text escaped."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mtrl_fairgrad.analysis.report import charts, paper_comparison, tables
from mtrl_fairgrad.analysis.report.charts import Panel
from mtrl_fairgrad.analysis.report.figure_files import as_svg
from mtrl_fairgrad.analysis.report.figure_style import Style
from mtrl_fairgrad.analysis.report.formats import SEPARATE
from mtrl_fairgrad.analysis.report.protocol_blocks import Block
from mtrl_fairgrad.analysis.report.tables import Table
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.atomic_io import reading_errors
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.safe_files import files_below, read_bytes, size_of

VIDEO_BYTES = 24 * 2**20
"""Largest total size of a page's videos, so that it loads on a phone; others are only named."""


PAGE_WIDTH, COLUMN_WIDTH = 10.4, 5.0
"""Widths in inches at which the letters of figures are as large as the page's notes."""
HEIGHTENED = 1.25
"""Factor of a figure's height on wide screens."""


class Figure(NamedTuple):
    """A panel embedded in the page."""

    title: str
    source: str
    """A data URI."""
    narrow: str
    """Data URI of the figure for phones; empty if it is the same."""
    description: str
    """Alternative text of the image."""


class HeatCell(NamedTuple):
    """A cell of the heat map."""

    value: str
    stderr: str
    percent: int
    """Strength of its colour, 0 to 100."""


class ImprovementCell(NamedTuple):
    """A cell of the probability of improvement."""

    value: str
    interval: str
    verdict: str
    """`better` or `worse` if the interval excludes ½, else empty."""


@dataclass(frozen=True)
class Video:
    """The video of one episode."""

    title: str
    source: str
    """A data URI; empty if the video was left out."""


@dataclass(frozen=True)
class RunRow:
    """The origin of a run; contains no path but the name of the run folder."""

    folder: str
    label: str
    seeds: str
    started: str
    duration: str
    device: str
    commit: str


@dataclass(frozen=True)
class Section:
    """The part of the page about one protocol."""

    anchor: str
    block: Block
    legend: list[tuple[Markup, RunGroup]]
    overview: Table
    certainty: Table
    improvement: Table | None
    improvement_cells: list[list[ImprovementCell]]
    seed_ranks: list[Table]
    table4: Table | None
    differences: Table | None
    curve: Figure
    intervals: Figure | None
    task_curves: list[Figure]
    heat: list[tuple[str, list[HeatCell]]]
    conflicts: list[Figure]
    weights: list[Figure]
    even_weights: str
    """Groups and networks whose task weights are equal."""
    update_shares: list[Table]
    gradients: list[Table]
    faults: Table | None
    videos: list[Video]
    runs: list[RunRow]


def as_html(blocks: Sequence[Block]) -> str:
    """Render the page for at least one block."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_cleaned,
    )
    sections = [
        _section(block, f"p{n}", videos)
        for n, (block, videos) in enumerate(zip(blocks, _videos(blocks), strict=True), start=1)
    ]
    groups = [group for block in blocks for group in block.groups]
    return environment.from_string(_resource("page.html")).render(
        style=Markup(_resource("page.css")),
        sections=sections,
        separate=SEPARATE,
        even_within=f"{charts.EVEN:.0%}",
        ratio=f"{charts.RATIO:g}",
        methods=len({group.label for group in groups}),
        runs=sum(len(group.folders) for group in groups),
        versions=_versions(groups),
    )


def _cleaned(value: object) -> object:
    """Clean what the template shows; figures, styles and numbers pass."""
    return clean(value) if type(value) is str else value


def _resource(name: str) -> str:
    return (files("mtrl_fairgrad.analysis.report") / name).read_text(encoding="utf-8")


def _section(block: Block, anchor: str, videos: list[Video]) -> Section:
    intervals = charts.intervals(block)
    weights, even = charts.weights(block)
    return Section(
        anchor=anchor,
        block=block,
        legend=[(_swatch(block.styles[group.label]), group) for group in block.groups],
        overview=tables.overview(block).in_order([0, 4, 5, 6, 3, 1, 2]),
        certainty=tables.certainty(block),
        improvement=tables.improvement(block),
        improvement_cells=_improvement_cells(block),
        seed_ranks=tables.seed_ranks(block),
        table4=paper_comparison.table4_comparison(block),
        differences=paper_comparison.differences(block),
        curve=_figure(charts.curve(block), block, PAGE_WIDTH),
        intervals=None if intervals is None else _figure(intervals, block, PAGE_WIDTH),
        task_curves=[_figure(panel, block) for panel in charts.task_curves(block)],
        heat=_heat(block),
        conflicts=[_figure(panel, block, COLUMN_WIDTH) for panel in charts.conflicts(block)],
        weights=[_figure(panel, block, COLUMN_WIDTH) for panel in weights],
        even_weights="; ".join(even),
        update_shares=tables.update_shares(block),
        gradients=tables.gradients(block),
        faults=tables.faults(block),
        videos=videos,
        runs=[_run(group, n) for group in block.groups for n in range(len(group.folders))],
    )


def _figure(panel: Panel, block: Block, width: float | None = None) -> Figure:
    """Embed a panel, on wide screens `width` inches wide and on phones as it is."""
    description = f"{panel.title}. Protocol: {block.protocol}."
    own = _data_uri(as_svg(panel), "image/svg+xml")
    if width is None:
        return Figure(panel.title, own, "", description)
    wide = as_svg(panel, (width, panel.size[1] * HEIGHTENED))
    return Figure(panel.title, _data_uri(wide, "image/svg+xml"), own, description)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _swatch(style: Style) -> Markup:
    """Draw a short line as the key of a legend."""
    dashes = {"-": "", "--": "6 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}[style.dash]
    return Markup(
        '<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path d="M1 4H23" fill="none" '
        'stroke-width="3" stroke="{}" stroke-dasharray="{}"/></svg>'
    ).format(style.hex, dashes)


def _heat(block: Block) -> list[tuple[str, list[HeatCell]]]:
    """Return the rows of the heat map: the mean, then every task."""

    def cell(mean: float, stderr: float) -> HeatCell:
        error = "" if math.isnan(stderr) else f"± {stderr:.2f}"
        return HeatCell(f"{mean:.2f}", error, round(100 * mean))

    rows = [("mean", [cell(group.final.mean, group.final.stderr) for group in block.groups])]
    for k, task in enumerate(block.tasks if len(block.tasks) > 1 else []):
        last = [
            (group.per_task.mean[-1, k], group.per_task.stderr[-1, k]) for group in block.groups
        ]
        rows.append((task, [cell(mean, stderr) for mean, stderr in last]))
    return rows


def _improvement_cells(block: Block) -> list[list[ImprovementCell]]:
    rows: list[list[ImprovementCell]] = []
    for row in block.improvements:
        cells: list[ImprovementCell] = []
        for improvement in row:
            if improvement is None:
                cells.append(ImprovementCell(tables.NOTHING, "", ""))
                continue
            chance = improvement.probability
            verdict = "better" if chance.low > 0.5 else "worse" if chance.high < 0.5 else ""
            interval = "" if math.isnan(chance.low) else f"{chance.low:.2f}–{chance.high:.2f}"
            cells.append(ImprovementCell(f"{chance.value:.2f}", interval, verdict))
        rows.append(cells)
    return rows


def _videos(blocks: Sequence[Block]) -> list[list[Video]]:
    """Collect the videos of each block, embedded until `VIDEO_BYTES` are used."""
    left = VIDEO_BYTES
    videos: list[list[Video]] = []
    for block in blocks:
        videos.append([])
        for group, folder, path in _video_files(block):
            run = f" · {folder.path.resolve().name}" if len(group.folders) > 1 else ""
            source = ""
            with reading_errors(path):
                size = size_of(path, folder.path)
                if size <= left:
                    left -= size
                    source = _data_uri(read_bytes(path, size, folder.path), "video/mp4")
            videos[-1].append(Video(f"{path.stem} · {group.label}{run}", source))
    return videos


def _video_files(block: Block) -> Iterator[tuple[RunGroup, RunFolder, Path]]:
    """Yield the videos of a block by run, sorted by task as far as their names begin with one."""
    # mtrl_fairgrad.evaluation.videos names them <task>-seed<seed>-goal<goal>.mp4.
    order = {re.sub(r"[/:]", "_", task): k for k, task in enumerate(block.tasks)}

    def key(path: Path) -> tuple[int, Path]:
        task = re.sub(r"-seed\d+-goal\d+$", "", path.stem)
        return order.get(task, len(order)), path

    for group in block.groups:
        for folder in group.folders:
            for path in sorted(files_below(folder.path, "*.mp4"), key=key):
                yield group, folder, path


def _run(group: RunGroup, n: int) -> RunRow:
    folder = group.folders[n]
    manifest = folder.manifest
    git = manifest.get("git") or {}
    commit = str(git.get("commit") or tables.NOTHING)[:10]
    return RunRow(
        folder=folder.path.resolve().name,
        label=group.label,
        seeds=", ".join(str(seed) for seed in folder.config.get("seeds") or []),
        started=str(manifest.get("started") or tables.NOTHING)[:16].replace("T", " "),
        duration=tables.duration(group.metrics[n].wall_seconds),
        device=str(manifest.get("device") or tables.NOTHING),
        commit=f"{commit} with changes" if git.get("dirty") else commit,
    )


def _versions(groups: Sequence[RunGroup]) -> str:
    """List the package versions that the runs used; all of them where runs differ."""
    versions: dict[str, dict[str, None]] = {}
    for group in groups:
        for folder in group.folders:
            for package, version in (folder.manifest.get("versions") or {}).items():
                versions.setdefault(str(package), {})[str(version)] = None
    return ", ".join(f"{package} {' or '.join(names)}" for package, names in versions.items())
