"""Read the TensorBoard event files of runs that version 0.1 wrote, which have no `metrics.csv`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtrl_fairgrad.runs.metric_entries import EVENT_FILES, LOGGED, WALL_SECONDS, Entry


def read_event_files(folder: Path, until: int | None = None) -> list[Entry]:
    """Read the entries that `metrics.csv` of the same run would hold, up to any damage.

    Args:
        folder: run folder.
        until: last env_steps to read; None reads everything.
    """
    entries: list[Entry] = []
    seconds = 0.0  # training time of the previous files
    for path in sorted(folder.glob(EVENT_FILES)):  # names begin with the time of creation
        first, last = float("inf"), float("-inf")
        times: dict[int, float] = {}
        for event in _load(path):
            if (until is not None and event.step > until) or not math.isfinite(event.wall_time):
                continue
            first, last = min(first, event.wall_time), max(last, event.wall_time)
            times[event.step] = seconds + last - first
            if event.HasField("session_log"):  # a resumed run repeats entries from here on
                entries = [entry for entry in entries if entry.env_steps < event.step]
            entries += [
                Entry(event.step, value.tag, value.simple_value)
                for value in event.summary.value
                if value.HasField("simple_value") and LOGGED.fullmatch(value.tag)
            ]
        entries += [Entry(step, WALL_SECONDS, elapsed) for step, elapsed in times.items()]
        seconds = max([seconds, *times.values()])
    return [entry for entry in entries if entry.is_sound]


def _load(path: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    try:
        yield from LegacyEventFileLoader(str(path)).Load()
    except (OSError, DecodeError):
        return
