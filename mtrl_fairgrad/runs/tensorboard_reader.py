"""What a run logged while it trained, read back from its TensorBoard files.

Reads the records itself: tensorboard's own accumulator takes four times as long, minutes for a
table of long runs.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SPEED = "speed/updates_per_second"
REPLACED = "workers/replaced"
WANTED = re.compile(
    rf"{SPEED}|{REPLACED}|\w+/(cosine/(mean|share_negative)|min_progress|residual|weights/.+|task_gradient_norm/.+)"
)
"""Tags that a report uses; half of a file is something else."""
PUBLISHED = re.compile(rf"{WANTED.pattern}|temperature/.+|critic/value/.+")
"""And what explains how a training went."""
NEGATIVE_PROGRESS = -1e-4
"""Of the largest squared gradient norm: above it, `g_iᵀd` counts as zero. Methods such as UPGrad
and MGDA hold tasks at exactly zero progress, where only rounding decides the sign."""


class Series(NamedTuple):
    """One tag's entries, in the order of steps."""

    env_steps: Array
    """`[N]`."""
    values: Array
    """`[N]`, means over the run's seeds; may hold NaN."""


@dataclass(frozen=True)
class Telemetry:
    """Of one run folder; empty where it holds no event files."""

    series: dict[str, Series]
    """By tag, such as `critic/residual` or `actor/weights/reach-v3`."""
    wall_seconds: float
    """From the first to the last entry of each process that trained here, added up; NaN if nothing
    was logged.
    """

    def by_task(self, tag: str) -> dict[str, Series]:
        """The series `tag/<task>`, by task."""
        return {
            name.removeprefix(f"{tag}/"): one
            for name, one in self.series.items()
            if name.startswith(f"{tag}/")
        }

    @property
    def replaced(self) -> int:
        """Simulator workers that died or hung, and were replaced."""
        found = self.series.get(REPLACED)
        return 0 if found is None else int(found.values[-1])

    def negative_progress(self, network: str) -> Series | None:
        """1 where the update made some task of `network` worse to first order, else 0; None where
        not logged.

        Read off the smallest `g_iᵀd`, of which the mean over the run's seeds is logged.
        """
        progress = self.series.get(f"{network}/min_progress")
        if progress is None:
            return None
        scale = np.zeros_like(progress.values)
        for norm in self.by_task(f"{network}/task_gradient_norm").values():
            scale = np.fmax(scale, np.interp(progress.env_steps, *norm) ** 2)
        negative = np.where(progress.values < NEGATIVE_PROGRESS * scale, 1.0, 0.0)
        return Series(progress.env_steps, np.where(np.isnan(progress.values), np.nan, negative))


def read_telemetry(folder: Path, until: int | None = None) -> Telemetry:
    """Everything a report uses of a folder's event files; what is damaged or cut off in them is
    left out.

    Args:
        folder: the run's.
        until: env_steps beyond which nothing counts; None: everything does.
    """
    entries: dict[str, dict[int, float]] = {}
    seconds: list[float] = []
    for path in sorted(
        folder.glob("events.out.tfevents.*")
    ):  # their names begin with the time of their making
        times: list[float] = []
        for event in _events(path):
            if until is not None and event.step > until:
                continue
            times.append(event.wall_time)
            if event.HasField("session_log"):
                _forget(entries.values(), event.step)
            for value in event.summary.value:
                if value.HasField("simple_value") and WANTED.fullmatch(value.tag):
                    entries.setdefault(value.tag, {})[event.step] = value.simple_value
        if times:
            seconds.append(max(times) - min(times))
    series = {
        tag: Series(
            np.array(sorted(found), np.float64),
            np.array([found[step] for step in sorted(found)], np.float64),
        )
        for tag, found in entries.items()
        if found
    }
    return Telemetry(series, float(np.sum(seconds)) if seconds else float("nan"))


def course(parts: Iterable[tuple[Series, float]], points: int = 60) -> Series:
    """The mean course of several runs, by equal stretches of env_steps.

    Args:
        parts: one tag's series of each run, with its weight (the run's number of seeds).
        points: into how many stretches the whole course is cut; those without a finite entry are
            left out.

    Returns:
        At most `points` entries: the middle of each stretch, and the weighted mean of the entries
            in it.
    """
    given = [(series, weight) for series, weight in parts if len(series.env_steps)]
    if not given:
        return Series(np.empty(0), np.empty(0))
    steps = np.concatenate([series.env_steps for series, _ in given])
    values = np.concatenate([series.values for series, _ in given])
    weights = np.concatenate([np.full(len(series.env_steps), weight) for series, weight in given])
    kept = np.isfinite(values)
    steps, values, weights = steps[kept], values[kept], weights[kept]
    distinct = np.unique(steps)
    if len(distinct) > points:
        edges = np.linspace(distinct[0], distinct[-1], points + 1)
        distinct = (edges[1:] + edges[:-1]) / 2
        place = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, points - 1)
    else:
        place = np.searchsorted(distinct, steps)
    mass = np.bincount(place, weights, len(distinct))
    sums = np.bincount(place, weights * values, len(distinct))
    return Series(distinct[mass > 0], sums[mass > 0] / mass[mass > 0])


def thinned(path: Path, points: int) -> bytes:
    """The content of an event file with only what a report uses, temperatures and values, at about
    `points` steps.

    Times are kept, those of the first and the last entry too, so that `Telemetry.wall_seconds`
    stays what it was.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = list(_events(path))
    steps = sorted({event.step for event in events if event.summary.value})
    kept = (
        {steps[round(place)] for place in np.linspace(0, len(steps) - 1, min(points, len(steps)))}
        if steps
        else {}
    )
    content = io.BytesIO()
    records = RecordWriter(content)
    for event in events:
        if event.summary.value:
            values = [value for value in event.summary.value if PUBLISHED.fullmatch(value.tag)]
            if event.step not in kept or not values:
                continue
            del event.summary.value[:]
            event.summary.value.extend(values)
        records.write(event.SerializeToString())
    if events:
        records.write(
            Event(
                wall_time=max(event.wall_time for event in events), step=events[-1].step
            ).SerializeToString()
        )
    return content.getvalue()


def _forget(entries: Iterable[dict[int, float]], step: int) -> None:
    """A run that was resumed at `step` measures again what its predecessor wrote from there on."""
    for found in entries:
        for later in [entry for entry in found if entry >= step]:
            del found[later]


def _events(path: Path) -> Iterator[Any]:
    """The events of a file of TFRecords: length (8 bytes), its checksum (4), the event, its
    checksum (4).
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    try:
        data = path.read_bytes()
    except OSError:
        return
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        end = place + 12 + length
        if end + 4 > len(data):  # a killed process left a part of a record
            return
        try:
            yield Event.FromString(data[place + 12 : end])
        except DecodeError:
            return
        place = end + 4
