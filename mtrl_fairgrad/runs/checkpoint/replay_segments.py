"""The replay on the disk: immutable files of consecutive rows, which checkpoints share.

A checkpoint writes the rows that came since the one before and lists all segments that the buffer
is made of. A segment is the bare numbers `[stop − start, …]`; its name tells which rows it holds
and the beginning of its SHA-256. The first rows of the oldest one may have left the buffer already.
It is written as it lies in memory, a part at a time: a buffer of many gigabytes needs no second
copy.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mtrl_fairgrad.utils.atomic_io import (
    Content,
    RunFolderError,
    beside,
    read_back,
    rename,
    sync,
    write,
)

if TYPE_CHECKING:  # torch takes a second to import, and checking files does without
    from torch import Tensor

SMALL = 2**24
"""Bytes below which a segment is written anew together with the rows that follow it, so that files
stay few.
"""
_PART = 2**24
_ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Ring(Protocol):
    """A buffer in memory; row number n, counted from the first ever added, lies at place n %
    capacity.
    """

    rows: Tensor
    """`[capacity, …]`."""
    added: int
    """Rows ever added."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows start … stop − 1."""

    start: int
    stop: int
    sha256: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.start:012d}-{self.stop:012d}-{self.sha256[:16]}.rows"


@dataclass(frozen=True, slots=True)
class RingRecord:
    """A buffer on the disk."""

    shape: tuple[int, ...]
    """`(capacity, …)`."""
    dtype: str
    added: int
    segments: tuple[Segment, ...]
    """Gap-free up to `added`."""

    @classmethod
    def parse(cls, found: dict[str, Any]) -> RingRecord:
        """From JSON that nobody vouches for; ValueError, KeyError or TypeError where it contradicts
        itself.
        """
        segments = tuple(
            Segment(int(s["start"]), int(s["stop"]), str(s["sha256"])) for s in found["segments"]
        )
        record = cls(
            tuple(map(int, found["shape"])), str(found["dtype"]), int(found["added"]), segments
        )
        ends = [segment.stop for segment in segments]
        starts = [segment.start for segment in segments]
        if (
            min(record.shape) < 1
            or record.dtype not in _ITEM
            or record.added < 0
            or not all(re.fullmatch("[0-9a-f]{64}", segment.sha256) for segment in segments)
            or any(stop <= start for start, stop in zip(starts, ends, strict=True))
            or starts[1:] != ends[:-1]
            or [*starts, 0][0] > record.first
            or [0, *ends][-1] != record.added
        ):
            raise ValueError("ring")
        return record

    @property
    def first(self) -> int:
        """The oldest row that is still in the buffer."""
        return max(self.added - self.shape[0], 0)

    def content(self, segment: Segment) -> Content:
        """What the segment's file must hold."""
        return Content(
            (segment.stop - segment.start) * math.prod(self.shape[1:]) * _ITEM[self.dtype],
            segment.sha256,
        )

    def fit(self, ring: Ring) -> bool:
        """Whether it is of a buffer of that shape."""
        return self.shape == tuple(ring.rows.shape) and self.dtype == _name(ring.rows)


def save_rows(folder: Path, ring: Ring, base: RingRecord | None, small: int = SMALL) -> RingRecord:
    """Write the rows that `base` does not hold, durably, and read them back.

    Args:
        folder: of the segments.
        ring: what to save.
        base: what was saved of, or loaded into, this buffer last; its segments are used again where
            they are there.
        small: see `SMALL`.

    Raises:
        OSError: the disk refused.
    """
    shape, dtype = tuple(ring.rows.shape), _name(ring.rows)
    first = max(ring.added - shape[0], 0)
    kept: list[Segment] = []
    if base is not None and base.added <= ring.added:
        kept = [segment for segment in base.segments if segment.stop > first]
        if not all(_there(folder / segment.name, base.content(segment).bytes) for segment in kept):
            kept = []
        while kept and base.content(kept[-1]).bytes < small:
            kept.pop()
    start = kept[-1].stop if kept else first
    if start < ring.added:
        kept.append(_save(folder, ring, start, ring.added))
    return RingRecord(shape, dtype, ring.added, tuple(kept))


def load_rows(folder: Path, record: RingRecord, ring: Ring) -> None:
    """Fill the buffer, of the same shape, checking every file while it is read.

    Raises:
        RunFolderError: naming the file that is damaged or missing; what the buffer then holds is of
            no use.
    """
    for segment in record.segments:
        path, content = folder / segment.name, record.content(segment)
        try:
            if path.stat().st_size != content.bytes:
                raise RunFolderError(
                    f"{path} is damaged ({path.stat().st_size} bytes long, not {content.bytes})"
                )
            digest = _load(path, ring, segment)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
        if digest != segment.sha256:
            raise RunFolderError(f"{path} is damaged (its SHA-256 is another)")
    ring.added = record.added


def _save(folder: Path, ring: Ring, start: int, stop: int) -> Segment:
    partial = beside(folder / f"{start:012d}-{stop:012d}")
    content = write(partial, (_bytes(part.detach().cpu()) for part in _parts(ring, start, stop)))
    read_back(partial, content)
    segment = Segment(start, stop, content.sha256)
    rename(partial, folder / segment.name)
    sync(folder)
    return segment


def _load(path: Path, ring: Ring, segment: Segment) -> str:
    """Read a segment to its place; returns the SHA-256 of what was read."""
    import torch

    digest = hashlib.sha256()
    with path.open("rb", 0) as file:
        for part in _parts(ring, segment.start, segment.stop):
            host = part if part.device.type == "cpu" else torch.empty_like(part, device="cpu")
            view = left = _bytes(host)
            while left and (count := file.readinto(left)):
                left = left[count:]
            digest.update(view)
            if host is not part:
                part.copy_(host)
    return digest.hexdigest()


def _parts(ring: Ring, start: int, stop: int) -> Iterator[Tensor]:
    """The places of rows start … stop − 1, in order, in parts of limited size."""
    capacity = len(ring.rows)
    most = max(_PART // (ring.rows[0].numel() * ring.rows.element_size()), 1)
    while start < stop:
        place = start % capacity
        count = min(stop - start, capacity - place, most)
        yield ring.rows[place : place + count]
        start += count


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    flat: Any = tensor.flatten().view(torch.uint8).numpy()
    return memoryview(flat)


def _there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _name(rows: Tensor) -> str:
    return str(rows.dtype).removeprefix("torch.")
