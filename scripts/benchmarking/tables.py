"""Rows as text, JSON and CSV, and the choice of them that the README shows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mtrl_fairgrad.utils.text_tables import csv_text, text_table

from . import machine
from .settings import Row

HIGHLIGHTS = {
    "update": (
        *(
            f"{way} / plain_ls"
            for way in ("ls", "fairgrad_newton", "fairgrad_sgd", "pcgrad", "cagrad", "nash_mtl")
        ),
        *(f"{way} / fairgrad_newton" for way in ("autograd_loop", "task_loop", "torchjd_fairgrad")),
        "plain_ls",
        "fairgrad_newton",
        "fairgrad_newton / floor",
    ),
    "tasks": ("fairgrad_newton, K=50 / K=10",),
    "seeds": ("S=10, of each seed / S=1",),
    "simulators": (
        "MT?0, metaworld",
        "MT?0, ours, * path",
        "MT?0, ours*code",
        "MT?0, physics only",
        "*/ 1 worker",
    ),
    "end_to_end": ("*: update / simulation", "*: step / max(update, simulation)"),
    "startup": ("until the first step is done",),
    "long": ("vector steps", "*, drift"),
}
"""Patterns of names by section, without a number of threads."""


def number(value: float) -> str:
    """With four digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def rounded(row: Row) -> Row:
    """As it is written."""
    return row._replace(value=float(number(row.value)))


def lines(rows: Iterable[Row]) -> list[str]:
    """A table for the terminal."""
    return text_table(
        [
            ("what", "value", "unit"),
            *((f"{r.section}: {r.name}", number(r.value), r.unit) for r in rows),
        ]
    )


def highlights(rows: Iterable[Row]) -> list[Row]:
    """Those that the README shows."""
    return [
        row
        for row in rows
        if any(
            fnmatchcase(row.name, pattern) or fnmatchcase(row.name, f"{pattern}, * thread*")
            for pattern in HIGHLIGHTS.get(row.section, ())
        )
    ]


def write_json(path: Path, rows: Iterable[Row], described: dict[str, Any]) -> None:
    """One run: `machine` and `rows`."""
    report = {"machine": described, "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_csv(path: Path) -> list[Row]:
    """Rows that `keep` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(row["section"], row["name"], float(row["value"]), row["unit"])
            for row in csv.DictReader(file)
        ]


def companion(path: Path) -> Path:
    """The file beside the CSV that tells the machine and commit of each of its sections."""
    return path.with_suffix(".machine.json")


def keep(path: Path, rows: list[Row], described: dict[str, Any]) -> None:
    """Put rows into a CSV file in place of those it has of the same sections, and the machine
    beside it.
    """
    new = dict.fromkeys(row.section for row in rows)
    old = read_csv(path) if path.exists() else []
    machines = json.loads(companion(path).read_text(encoding="utf-8")) if old else {}
    everything = [row for row in old if row.section not in new] + rows
    everything.sort(key=lambda row: [*HIGHLIGHTS].index(row.section))
    table = csv_text(
        [Row._fields, *((r.section, r.name, number(r.value), r.unit) for r in everything)]
    )
    path.write_text(table, encoding="utf-8")
    machines |= dict.fromkeys(new, described)
    companion(path).write_text(
        json.dumps(machines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def shown(path: Path) -> str:
    """What the README shows of a kept file: its highlights, and where they were measured."""
    machines = json.loads(companion(path).read_text(encoding="utf-8"))
    places = dict.fromkeys(map(machine.summary, machines.values()))
    return "\n".join([*places, "", *lines(highlights(read_csv(path)))])
