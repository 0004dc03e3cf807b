"""The report as one HTML page that needs nothing else: figures inline, videos embedded, everything
escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mtrl_fairgrad.analysis.report import charts, paper_comparison, tables
from mtrl_fairgrad.analysis.report.charts import Panel
from mtrl_fairgrad.analysis.report.formats import SEPARATE
from mtrl_fairgrad.analysis.report.protocol_blocks import Block
from mtrl_fairgrad.analysis.report.svg import as_svg, swatch
from mtrl_fairgrad.analysis.run_groups import Group
from mtrl_fairgrad.runs.run_dir import RunFolder

VIDEO_BYTES = 24 * 2**20
"""Of all videos of a page together; those beyond are named but left out, since a page of more is
slow on a phone.
"""


class Drawn(NamedTuple):
    """A panel for the page."""

    title: str
    svg: Markup


class Cell(NamedTuple):
    """A cell of the heat map."""

    value: str
    stderr: str
    percent: int
    """How strongly it is coloured, 0 to 100."""


@dataclass(frozen=True)
class Video:
    """A film of one episode."""

    title: str
    source: str
    """A data URI; empty when it was left out."""


def as_html(blocks: Sequence[Block]) -> str:
    """The page.

    Args:
        blocks: at least one.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        (files("mtrl_fairgrad.analysis.report") / "page.html").read_text(encoding="utf-8")
    )
    style = Markup(
        (files("mtrl_fairgrad.analysis.report") / "page.css").read_text(encoding="utf-8")
    )
    films = _videos(blocks)
    sections = [
        _section(block, f"p{n}", videos)
        for n, (block, videos) in enumerate(zip(blocks, films, strict=True), 1)
    ]
    groups = [group for block in blocks for group in block.groups]
    return template.render(
        style=style,
        sections=sections,
        separate=SEPARATE,
        methods=len({group.label for group in groups}),
        runs=sum(len(group.folders) for group in groups),
        versions=_versions(groups),
    )


def _section(block: Block, anchor: str, videos: list[Video]) -> dict[str, Any]:
    draw = _drawer(block, anchor)
    spread, (weights, even) = charts.intervals(block), charts.weights(block)
    return {
        "anchor": anchor,
        "block": block,
        "legend": [(swatch(*block.styles[group.label]), group) for group in block.groups],
        "overview": tables.overview(block).in_order([0, 4, 5, 6, 3, 1, 2]),
        "certainty": tables.certainty(block),
        "improvement": tables.improvement(block),
        "chances": _chances(block),
        "seed_ranks": tables.seed_ranks(block),
        "table4": paper_comparison.table4_comparison(block),
        "differences": paper_comparison.differences(block),
        "curve": draw(charts.curve(block)),
        "labelled": charts.short_labels(block) is not None,
        "intervals": None if spread is None else draw(spread),
        "task_curves": [draw(panel) for panel in charts.task_curves(block)],
        "heat": _heat(block),
        "conflicts": [draw(panel) for panel in charts.conflicts(block)],
        "weights": [draw(panel) for panel in weights],
        "step_parts": tables.step_parts(block),
        "even": "; ".join(even),
        "even_within": f"{charts.EVEN:.0%}",
        "ratio": f"{charts.RATIO:g}",
        "faults": tables.faults(block),
        "videos": videos,
        "runs": [_run(group, n) for group in block.groups for n in range(len(group.folders))],
    }


def _drawer(block: Block, anchor: str) -> Callable[[Panel], Drawn]:
    drawn = 0

    def draw(panel: Panel) -> Drawn:
        nonlocal drawn
        drawn += 1
        return Drawn(
            panel.title,
            as_svg(panel, f"{anchor}-{drawn}", f"{panel.title}. Protocol: {block.protocol}."),
        )

    return draw


def _heat(block: Block) -> list[tuple[str, list[Cell]]]:
    """Rows of the heat map: the mean, then every task."""

    def cell(mean: float, stderr: float) -> Cell:
        return Cell(
            f"{mean:.2f}", "" if math.isnan(stderr) else f"± {stderr:.2f}", round(100 * mean)
        )

    rows = [("mean", [cell(group.final.mean, group.final.stderr) for group in block.groups])]
    for k, task in enumerate(block.tasks if len(block.tasks) > 1 else []):
        rows.append(
            (
                task,
                [
                    cell(group.per_task.mean[-1, k], group.per_task.stderr[-1, k])
                    for group in block.groups
                ],
            )
        )
    return rows


def _chances(block: Block) -> list[list[tuple[str, str, str]]]:
    """Cells of the improvement matrix: value, interval, and `better` or `worse` where that excludes
    ½.
    """
    found: list[list[tuple[str, str, str]]] = []
    for row in block.improvements:
        cells: list[tuple[str, str, str]] = []
        for one in row:
            if one is None:
                cells.append((tables.NOTHING, "", ""))
                continue
            chance = one.probability
            verdict = "better" if chance.low > 0.5 else "worse" if chance.high < 0.5 else ""
            spread = "" if math.isnan(chance.low) else f"{chance.low:.2f}–{chance.high:.2f}"
            cells.append((f"{chance.value:.2f}", spread, verdict))
        found.append(cells)
    return found


def _videos(blocks: Sequence[Block]) -> list[list[Video]]:
    """The films in the run folders of each block, in the order of tasks; embedded as long as
    `VIDEO_BYTES` last.
    """
    left, found = VIDEO_BYTES, list[list[Video]]()
    for block in blocks:
        found.append([])
        for group, folder, path in _films(block):
            run = f" · {folder.path.resolve().name}" if len(group.folders) > 1 else ""
            size, source = path.stat().st_size, ""
            if size <= left:
                left -= size
                source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
            found[-1].append(Video(f"{path.stem} · {group.label}{run}", source))
    return found


def _films(block: Block) -> Iterator[tuple[Group, RunFolder, Path]]:
    rank = {f"{task}.mp4": k for k, task in enumerate(block.tasks)}
    for group in block.groups:
        for folder in group.folders:
            for path in sorted(
                folder.path.rglob("*.mp4"), key=lambda path: (rank.get(path.name, len(rank)), path)
            ):
                yield group, folder, path


def _run(group: Group, n: int) -> dict[str, str]:
    """Where a row of the list of runs comes from; names no folder but the run's own."""
    folder, metrics = group.folders[n], group.metrics[n]
    manifest, git = folder.manifest, folder.manifest.get("git") or {}
    commit = str(git.get("commit") or tables.NOTHING)[:10]
    return {
        "folder": folder.path.resolve().name,
        "label": group.label,
        "seeds": ", ".join(str(seed) for seed in folder.config.get("seeds") or []),
        "started": str(manifest.get("started") or tables.NOTHING)[:16].replace("T", " "),
        "took": tables.duration(metrics.wall_seconds),
        "device": str(manifest.get("device") or tables.NOTHING),
        "commit": f"{commit} with changes" if git.get("dirty") else commit,
    }


def _versions(groups: Sequence[Group]) -> str:
    """The versions that the runs were made with, those that differ all of them."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for folder in group.folders:
            for package, version in (folder.manifest.get("versions") or {}).items():
                found.setdefault(str(package), {})[str(version)] = None
    return ", ".join(f"{package} {' or '.join(versions)}" for package, versions in found.items())
