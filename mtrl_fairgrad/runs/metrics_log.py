"""The metrics log of a run, `metrics.csv`: the logged numbers that reports read.

It has a line `env_steps,name,value` for each entry, in the order of writing. Names are tags of
TensorBoard (`critic/residual`, `actor/weights/reach-v3`), values are means over the run's seeds.
Lines named `wall_seconds` hold the training time until then, summed over all processes of the run.

Folders written by version 0.1 have only TensorBoard event files: `read_metrics` reads those
(`mtrl_fairgrad.runs.tensorboard_reader`), and a resumed run converts them once.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.runs.metric_entries import (
    EVENT_FILES,
    LOGGED,
    REPORTED,
    WALL_SECONDS,
    WORKERS_REPLACED,
    Entry,
)
from mtrl_fairgrad.runs.tensorboard_reader import read_event_files
from mtrl_fairgrad.utils.atomic_io import AppendFile, reading_errors, write_atomic
from mtrl_fairgrad.utils.safe_files import entries, is_present, read_lines
from mtrl_fairgrad.utils.text_tables import csv_text

Array = NDArray[np.float64]

NAME = "metrics.csv"
SCALARS = "scalars.csv"
"""What `logger=csv` writes: all scalars that TensorBoard shows, in the same columns."""
COLUMNS = ("env_steps", "name", "value")
MAX_BYTES = 2**30
"""Largest size of metrics.csv; what is logged beyond it is in the event files alone."""
_log = logging.getLogger(__name__)


class Series(NamedTuple):
    """One name's entries, in the order of steps."""

    env_steps: Array
    """`[N]`."""
    values: Array
    """`[N]`, means over the run's seeds; may hold NaN."""


@dataclass(frozen=True)
class RunMetrics:
    """The metrics that a report reads of one run folder; empty where nothing was logged."""

    series: dict[str, Series]
    """By name, such as `critic/residual` or `actor/weights/reach-v3`."""
    wall_seconds: float
    """Training time, summed over the run's processes; NaN if nothing was logged."""

    def by_task(self, name: str) -> dict[str, Series]:
        """Return the series `name/<task>`, by task."""
        return {
            key.removeprefix(f"{name}/"): series
            for key, series in self.series.items()
            if key.startswith(f"{name}/")
        }

    @property
    def workers_replaced(self) -> int:
        """Number of simulator workers that died or hung and were replaced."""
        series = self.series.get(WORKERS_REPLACED)
        return 0 if series is None else int(series.values[-1])


# ---- writing ----


class MetricsLog:
    """Writer of `metrics.csv` for one training process; continues an existing file.

    The file is made with the first entry, and entries are on the disk at the latest 10 s after
    they were added. A folder with event files but no `metrics.csv` is converted first.

    Args:
        folder: run folder, rewound to the checkpoint that training starts from.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        if not is_present(path) and entries(folder, EVENT_FILES):
            write_atomic(path, encode(read_entries(folder)))
        end, seconds = 0, 0.0
        for position, line in read_lines(path, MAX_BYTES) if is_present(path) else ():
            end, entry = position, _parse(line)
            if entry is not None and entry.name == WALL_SECONDS:
                seconds = max(seconds, entry.value)
        self._file = AppendFile(path, end)
        self._full = False
        if not end:
            self._file.write(encode([]))
        self._start = time.monotonic() - seconds
        self._time: Entry | None = None
        """The training time at the latest entry, not yet written."""

    def add(self, name: str, value: float, env_steps: int) -> None:
        """Log a value if its name matches `LOGGED`; OSError when a due write fails."""
        if self._time is not None and self._time.env_steps != env_steps:
            self._write_time()
        self._time = Entry(env_steps, WALL_SECONDS, time.monotonic() - self._start)
        if LOGGED.fullmatch(name):
            self._write(Entry(env_steps, name, float(value)))

    def flush(self) -> None:
        """Write all entries durably; an OSError leaves whole lines."""
        self._write_time()
        self._file.flush()

    def close(self) -> None:
        """Write the remaining entries; errors are ignored, since a resumed run repeats them."""
        with contextlib.suppress(OSError):
            self.flush()

    def _write_time(self) -> None:
        entry, self._time = self._time, None
        if entry is not None:
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        line = _line(entry)
        if self._file.size + len(line) <= MAX_BYTES:
            self._file.write(line)
        elif not self._full:
            self._full = True
            _log.warning(
                "%s has the largest size that a report reads: give a larger log_every next time; "
                "from here on the metrics are in the event files alone",
                self._file.path,
            )


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the content of a `metrics.csv`."""
    return csv_text([COLUMNS, *map(_cells, entries)]).encode()


def _line(entry: Entry) -> bytes:
    return csv_text([_cells(entry)]).encode()


def _cells(entry: Entry) -> tuple[int, str, str]:
    return entry.env_steps, entry.name, repr(entry.value)


# ---- reading ----


def read_metrics(folder: Path, until: int | None = None) -> RunMetrics:
    """Read the metrics that a report needs, without incomplete and damaged lines.

    Args:
        folder: run folder.
        until: last env_steps to read; None reads everything.
    """
    series: dict[str, dict[int, float]] = {}
    seconds: list[float] = []
    for entry in read_entries(folder, until):
        if entry.name == WALL_SECONDS:
            seconds.append(entry.value)
        elif REPORTED.fullmatch(entry.name):
            series.setdefault(entry.name, {})[entry.env_steps] = entry.value
    return RunMetrics(
        {
            name: Series(
                np.array(sorted(values), np.float64),
                np.array([values[step] for step in sorted(values)], np.float64),
            )
            for name, values in series.items()
        },
        max(seconds, default=float("nan")),
    )


def read_entries(folder: Path, until: int | None = None) -> Iterator[Entry]:
    """Yield all entries until `until`, from `metrics.csv` or else from the event files.

    They may not fit into memory together.

    Raises:
        RunFolderError: a file cannot be read, is not a regular one, or is too large.
    """
    path = folder / NAME
    if not is_present(path):
        yield from read_event_files(folder, until)
        return
    with reading_errors(path):
        for _, line in read_lines(path, MAX_BYTES):
            entry = _parse(line)
            if entry is not None and (until is None or entry.env_steps <= until):
                yield entry


def thin(entries: Sequence[Entry], points: int) -> list[Entry]:
    """Select the entries at about `points` evenly spaced steps, and the last training time."""
    steps = sorted({entry.env_steps for entry in entries if entry.name != WALL_SECONDS})
    indices = np.linspace(0, len(steps) - 1, min(points, len(steps)))
    selected = {steps[round(index)] for index in indices}
    last = max(
        (n for n, entry in enumerate(entries) if entry.name == WALL_SECONDS),
        default=None,
    )
    return [entry for n, entry in enumerate(entries) if entry.env_steps in selected or n == last]


def _parse(line: bytes) -> Entry | None:
    """Return the entry of a line; None for the heading and for a damaged one."""
    with contextlib.suppress(ValueError, csv.Error):
        text = line.decode(errors="replace").removesuffix("\n")
        env_steps, name, value = next(csv.reader([text])) if '"' in text else text.split(",")
        entry = Entry(int(env_steps), name, float(value))
        return entry if entry.is_sound else None
    return None
