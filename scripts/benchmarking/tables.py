"""Rows as text, JSON and CSV, and the highlights shown in docs/performance.md."""

from __future__ import annotations

import csv
import json
import re
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
    "many_tasks": ("* / plain_sum",),
    "seeds": ("S=10, of each seed / S=1",),
    "simulators": (
        "MT?0, metaworld",
        "MT?0, ours, * path",
        "MT?0, ours*code",
        "MT?0, physics only",
        "*/ 1 worker",
    ),
    "copies": ("E=*worker", "E=*workers", "*workers wait", "* own rate)"),
    "end_to_end": ("*: update / simulation", "*: step / max(update, simulation)"),
    "startup": ("until the first step is done",),
    "long": ("vector steps", "*, drift"),
    "gpu": (
        "*: speed",
        "* / ls",
        "solve newton*",
        "*own share",
        "*: kernels",
        "left out for time*",
        "failed*",
    ),
    "launches": tuple(f"{way}: *" for way in ("ls", "fairgrad_newton", "cagrad")),
}
"""Patterns of row names by section, without the number of threads."""


def number(value: float) -> str:
    """Format a value with four digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def rounded(row: Row) -> Row:
    """Round a row to the digits that are written."""
    return row._replace(value=float(number(row.value)))


def lines(rows: Iterable[Row]) -> list[str]:
    """Format rows as a table for the terminal."""
    return text_table(
        [
            ("what", "value", "unit"),
            *((f"{r.section}: {r.name}", number(r.value), r.unit) for r in rows),
        ]
    )


def highlights(rows: Iterable[Row]) -> list[Row]:
    """Select the rows shown in docs/performance.md."""
    return [
        row
        for row in rows
        if any(
            fnmatchcase(row.name, pattern) or fnmatchcase(row.name, f"{pattern}, * thread*")
            for pattern in HIGHLIGHTS.get(row.section, ())
        )
    ]


def write_json(path: Path, rows: Iterable[Row], described: dict[str, Any]) -> None:
    """Write one run: `machine` and `rows`."""
    report = {"machine": described, "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_csv(path: Path) -> list[Row]:
    """Read the rows of a results file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(row["section"], row["name"], float(row["value"]), row["unit"])
            for row in csv.DictReader(file)
        ]


def machine_path(path: Path) -> Path:
    """Return the path of the JSON file with the machine and commit of each section."""
    return path.with_suffix(".machine.json")


def update_csv(path: Path, rows: list[Row], described: dict[str, Any]) -> None:
    """Replace the sections of a results file that `rows` belong to, and their machine."""
    new = dict.fromkeys(row.section for row in rows)
    old = read_csv(path) if path.exists() else []
    machines = json.loads(machine_path(path).read_text(encoding="utf-8")) if old else {}
    everything = [row for row in old if row.section not in new] + rows
    everything.sort(key=lambda row: [*HIGHLIGHTS].index(row.section))
    table = csv_text(
        [Row._fields, *((r.section, r.name, number(r.value), r.unit) for r in everything)]
    )
    path.write_text(table, encoding="utf-8")
    machines |= dict.fromkeys(new, described)
    machine_path(path).write_text(
        json.dumps(machines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def show_highlights(path: Path) -> str:
    """Return the highlights of a results file and the machines they were measured on."""
    machines = json.loads(machine_path(path).read_text(encoding="utf-8"))
    places = dict.fromkeys(map(machine.summary, machines.values()))
    return "\n".join([*places, "", *lines(highlights(read_csv(path)))])


def kept_files(folder: Path, described: dict[str, Any]) -> tuple[Path, Path]:
    """Return the CSV and the JSON file of a machine, named after its GPU or its processor."""
    words = re.findall(r"[a-z0-9]+", str(described["gpu"] or described["cpu"]).lower())
    name = "-".join(words)
    return folder / f"{name}.csv", folder / f"{name}.json"
