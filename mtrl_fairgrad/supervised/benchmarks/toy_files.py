"""The files of a run of the toy problem: toy.csv, manifest.json, and their report and checks."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from operator import eq
from pathlib import Path
from typing import Any

import torch

from mtrl_fairgrad.analysis.verification import MANIFEST_KEYS, Finding, recording_errors
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.supervised.benchmarks.toy import (
    ARRIVED,
    CHECK_EVERY,
    NEAR,
    OUTCOMES,
    Trajectories,
)
from mtrl_fairgrad.supervised.benchmarks.toy_problem import STARTS, distance_from_front, losses
from mtrl_fairgrad.utils.atomic_io import (
    RunFolderError,
    make_folders,
    reading_errors,
    write_atomic,
)
from mtrl_fairgrad.utils.safe_files import is_present, read_bytes
from mtrl_fairgrad.utils.safe_load import read_mapping
from mtrl_fairgrad.utils.text_tables import csv_text, text_table

CSV, FIGURE, MANIFEST = "toy.csv", "toy.png", "manifest.json"
MAX_BYTES = 2**27
"""Largest size of toy.csv."""
COLUMNS = ("alpha", "start", "step", "x1", "x2", "loss1", "loss2", "outcome")
"""Columns of toy.csv; `outcome` is given in the last row of each trajectory."""

_NUMBERS = ("alpha", "x1", "x2", "loss1", "loss2")
Row = dict[str, str]


def write(
    trajectories: Sequence[Trajectories],
    options: Mapping[str, Any],
    folder: Path,
    overrides: Sequence[str],
) -> None:
    """Write toy.csv and manifest.json, whose `protocol` has the options of the benchmark."""
    lines: list[Sequence[object]] = [COLUMNS]
    for one in trajectories:
        for start, (steps, outcome) in enumerate(zip(one.steps, one.outcomes, strict=True)):
            points = one.path(start)
            pairs = losses(points, options["formula"]).tolist()
            for index, (point, pair) in enumerate(zip(points.tolist(), pairs, strict=True)):
                last = index == len(pairs) - 1
                step = steps if last else index * CHECK_EVERY
                end = outcome if last else ""
                lines.append([float(one.alpha), start, step, *point, *pair, end])
    protocol = {"benchmark": "toy", **options, "alphas": [float(a) for a in options["alphas"]]}
    described = json.dumps(manifest(overrides, "cpu", protocol), indent=1)
    write_atomic(folder / MANIFEST, described.encode() + b"\n")
    write_atomic(folder / CSV, csv_text(lines).encode())


def make_folder(folder: Path) -> None:
    """Make the folder for toy.csv and manifest.json before anything is computed.

    Raises:
        RunFolderError: it holds another run, whose manifest would be lost, or cannot be made.
    """
    held = [name for name in ("config.yaml", MANIFEST) if is_present(folder / name)]
    if held and not is_toy_run(folder):
        raise RunFolderError(
            f"run_dir={folder} holds the {held[0]} of something else than the toy problem: choose "
            "another run_dir."
        )
    try:
        make_folders(folder)
    except OSError as error:
        raise RunFolderError(
            f"run_dir={folder} cannot be created ({error.strerror}): choose a writable folder."
        ) from None


def is_toy_run(folder: Path) -> bool:
    """Return whether a folder holds the trajectories of this problem."""
    return is_present(folder / CSV)


def table(folder: Path) -> str:
    """Return a table of the ends of all trajectories of a folder."""
    rows = [["α", "start", "steps", "end", "losses", "outcome"]]
    for path in _paths(_rows(folder)).values():
        end = path[-1]
        x1, x2, first, second = (float(end[name]) for name in ("x1", "x2", "loss1", "loss2"))
        start = STARTS[int(end["start"])]
        rows.append(
            [
                f"{float(end['alpha']):g}",
                f"({start[0]:g}, {start[1]:g})",
                end["step"],
                f"({x1:.3f}, {x2:.3f})",
                f"{first:.3f}, {second:.2f}",
                end["outcome"],
            ]
        )
    outcomes = {row[-1] for row in rows[1:]}
    meanings = [f"{name}: {meaning}." for name, meaning in OUTCOMES.items() if name in outcomes]
    return "\n".join([*text_table(rows), "", *meanings])


def print_ends(folders: Sequence[Path]) -> None:
    """Print where the trajectories of each folder end.

    Raises:
        RunFolderError: a folder holds none.
    """
    for folder in folders:
        if not is_toy_run(folder):
            raise RunFolderError(
                f"{folder} is not a run of the toy problem, but others are: report on one "
                "benchmark at a time."
            )
    names = ("alpha", "start", "x1", "x2", "loss1", "loss2")
    for folder in folders:
        ends = [path[-1] for path in _paths(_rows(folder)).values()]
        # A run of version 0.1 has no outcomes.
        told = bool(ends) and all(row.get("outcome") for row in ends)
        rows = [["α", *names[1:], *(["outcome"] if told else [])]]
        for row in ends:
            numbers = [f"{float(row[name]):.5g}" for name in names]
            rows.append([*numbers, *([row["outcome"]] if told else [])])
        print("\n".join([*text_table(rows), ""]))
    print(
        "The paper has no table of the toy problem: these are the ends of the trajectories that "
        "its Figure 1 draws."
    )


# ---- verification ----


def verify_toy(folder: Path) -> list[Finding]:
    """Check the files of a run: a finding for each check.

    The problem is a formula, so that all losses and all arrivals are computed again.
    """
    findings: list[Finding] = []
    for name, (check, summary) in CHECKS.items():
        finding = Finding(name, summary)
        with recording_errors(finding.problems):
            finding.problems += check(folder)
        findings.append(finding)
    return findings


def _check_manifest(folder: Path) -> list[str]:
    if not is_present(folder / MANIFEST):
        return [f"there is no {MANIFEST}: give the command again with this version"]
    found = read_mapping(folder / MANIFEST)
    needed = [key for key in MANIFEST_KEYS if key != "config_sha256"]
    missing = [key for key in needed if key not in found]
    return [f"{MANIFEST} lacks {', '.join(missing)}"] if missing else []


def _check_trajectories(folder: Path) -> list[str]:
    options, problems = _options(folder), list[str]()
    paths = _paths(_rows(folder))
    due = [(float(alpha), start) for alpha in options["alphas"] for start in range(len(STARTS))]
    if list(paths) != due:
        problems.append(f"{CSV} does not have all starts of α = {options['alphas']}, in order")
    for (alpha, start), path in paths.items():
        where = f"α={alpha:g}, start {start}"
        if (float(path[0]["x1"]), float(path[0]["x2"])) != STARTS[start]:
            problems.append(f"{where}: does not begin at {STARTS[start]}")
        steps, last = [int(row["step"]) for row in path], int(path[-1]["step"])
        # Not as a list, since a file may promise any number of them.
        due_steps = itertools.chain(range(0, last, CHECK_EVERY), [last])
        complete = len(steps) == -(-last // CHECK_EVERY) + 1 and all(map(eq, steps, due_steps))
        if not complete or last > options["steps"]:
            problems.append(f"{where}: steps are missing or repeated")
    return problems


def _check_losses(folder: Path) -> list[str]:
    formula, rows = _options(folder)["formula"], _rows(folder)
    points = _numbers(rows, "x1", "x2")
    stored, computed = _numbers(rows, "loss1", "loss2"), losses(points, formula)
    # Processors round tanh and log differently; the valleys are steep.
    wrong = ~torch.isclose(stored, computed, rtol=1e-6, atol=1e-6, equal_nan=True).all(-1)
    return [
        f"α={rows[index]['alpha']}, start {rows[index]['start']}, step {rows[index]['step']}: the "
        "losses are not those of the point"
        for index in wrong.nonzero().flatten().tolist()
    ]


def _check_outcomes(folder: Path) -> list[str]:
    options, problems = _options(folder), list[str]()
    for (alpha, start), path in _paths(_rows(folder)).items():
        outcome, where = path[-1]["outcome"], f"α={alpha:g}, start {start}"
        if outcome not in OUTCOMES or any(row["outcome"] for row in path[:-1]):
            problems.append(f"{where}: the last row alone must have an outcome")
        elif options["formula"] == "code":
            end = _numbers(path[-1:], "x1", "x2")
            if bool(distance_from_front(end) <= NEAR) != (outcome == ARRIVED):
                problems.append(f"{where}: the end does not agree with the outcome {outcome}")
    return problems


CHECKS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "manifest": (_check_manifest, f"{MANIFEST} names options, versions, commit and machine"),
    "trajectories": (_check_trajectories, "every α and start, from its start, without gaps"),
    "losses": (_check_losses, "all losses are those of their points"),
    "outcomes": (_check_outcomes, "those and only those on the Pareto front have arrived"),
}
"""Name → check, which returns problems, and what holds if there are none."""


def _options(folder: Path) -> dict[str, Any]:
    return read_mapping(folder / MANIFEST)["protocol"]


def _rows(folder: Path) -> list[Row]:
    """Read toy.csv, whose cells then are numbers where its columns are.

    Raises:
        RunFolderError: it cannot be read, or is damaged.
    """
    path, rows = folder / CSV, list[Row]()
    with reading_errors(path):
        data = read_bytes(path, MAX_BYTES)
    try:
        for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
            for name in _NUMBERS:
                float(row[name])
            if int(row["start"]) not in range(len(STARTS)) or int(row["step"]) < 0:
                raise ValueError
            rows.append(row)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise RunFolderError(
            f"{path} is damaged (row {len(rows) + 1}): restore it from a copy."
        ) from None
    return rows


def _paths(rows: Sequence[Row]) -> dict[tuple[float, int], list[Row]]:
    paths: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        paths.setdefault((float(row["alpha"]), int(row["start"])), []).append(row)
    return paths


def _numbers(rows: Sequence[Row], *columns: str) -> torch.Tensor:
    values = [[float(row[name]) for name in columns] for row in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(-1, len(columns))
