"""Read the TensorBoard event files of runs that version 0.1 wrote, which have no `metrics.csv`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mtrl_fairgrad.runs.metric_entries import EVENT_FILES, LOGGED, WALL_SECONDS, Entry
from mtrl_fairgrad.utils.safe_files import check_limit, reading
from mtrl_fairgrad.utils.safe_files import entries as entries_of

MAX_BYTES = 2**32
"""Largest size of an event file."""
_MAX_RECORD = 2**20
"""Largest size of one of its records; scalars and texts have a few kilobytes."""


def read_event_files(folder: Path, until: int | None = None) -> list[Entry]:
    """Read the entries that `metrics.csv` of the same run would hold, up to any damage.

    Args:
        folder: run folder.
        until: last env_steps to read; None reads everything.
    """
    entries: list[Entry] = []
    seconds = 0.0  # training time of the previous files
    for path in entries_of(folder, EVENT_FILES):  # their names are in the order of writing
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
    """Yield the events of a file up to any damage.

    Raises:
        RunFolderError: it is not a regular file, or too large.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import (  # pyright: ignore[reportMissingImports]
        Event,  # pyright: ignore[reportAttributeAccessIssue]
    )

    try:
        with reading(path) as file:
            check_limit(path, os.fstat(file.fileno()).st_size, MAX_BYTES)
            while (record := _record(file)) is not None:
                yield Event.FromString(record)
    except (OSError, DecodeError):
        return


def _record(file: BinaryIO) -> bytes | None:
    """Read the next record; None at the end and at damage.

    A record has the length of its data (8 bytes), the checksum of the length (4), the data, and
    their checksum (4), all little-endian.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # pyright: ignore[reportMissingImports]
        masked_crc32c,
    )

    head = file.read(12)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 12 or length > _MAX_RECORD or _checksum(head[8:]) != masked_crc32c(head[:8]):
        return None
    data, end = file.read(length), file.read(4)
    if len(end) < 4 or _checksum(end) != masked_crc32c(data):
        return None
    return data


def _checksum(data: bytes) -> int:
    return int.from_bytes(data, "little")
