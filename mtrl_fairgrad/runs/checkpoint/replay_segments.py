"""The replay buffer on disk: immutable files of consecutive rows, shared by checkpoints.

A checkpoint writes the rows added since the previous one and lists all segments of the buffer. A
segment is the raw numbers `[stop − start, …]`; its name holds its range of rows and the beginning
of its SHA-256. The first rows of the oldest segment may have left the buffer already. Segments are
written from memory in parts, so that a buffer of many gigabytes needs no second copy.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from mtrl_fairgrad.utils.atomic_io import (
    Content,
    RunFolderError,
    read_back,
    rename,
    sync,
    temporary,
    write,
)
from mtrl_fairgrad.utils.file_schema import Count, check_schema
from mtrl_fairgrad.utils.safe_files import reading, size_of

if TYPE_CHECKING:  # torch takes a second to import, and checking files does not need it
    from torch import Tensor

SMALL = 2**24
"""Bytes below which a segment is merged with the next rows, to limit the number of files."""
_PART = 2**24
_ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Ring(Protocol):
    """A ring buffer in memory: row number n, counted from the first added, is at n % capacity."""

    rows: Tensor
    """`[capacity, …]`."""

    @property
    def added(self) -> int:
        """Number of rows added so far."""
        ...

    @added.setter
    def added(self, number: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the rows start … stop − 1."""

    start: int
    stop: int
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.start:012d}-{self.stop:012d}-{self.sha256[:16]}.rows"


class _Segment(TypedDict):
    start: Count
    stop: Count
    sha256: str


class _Ring(TypedDict):
    shape: list[Count]
    dtype: str
    added: Count
    segments: list[_Segment]


@dataclass(frozen=True, slots=True)
class RingRecord:
    """A ring buffer on disk."""

    shape: tuple[int, ...]
    """`(capacity, …)`."""
    dtype: str
    added: int
    segments: tuple[Segment, ...]
    """In the order of rows, without gaps up to `added`."""

    @classmethod
    def parse(cls, data: dict[str, Any]) -> RingRecord:
        """Validate untrusted JSON; raises ValueError."""
        check_schema(data, _Ring, "ring")
        segments = tuple(Segment(s["start"], s["stop"], s["sha256"]) for s in data["segments"])
        record = cls(tuple(data["shape"]), data["dtype"], data["added"], segments)
        ends = [segment.stop for segment in segments]
        starts = [segment.start for segment in segments]
        if (
            min(record.shape, default=0) < 1
            or record.dtype not in _ITEM
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
        """Number of the oldest row in the buffer."""
        return max(self.added - self.shape[0], 0)

    def content(self, segment: Segment) -> Content:
        """Expected size and checksum of a segment's file."""
        return Content(
            (segment.stop - segment.start) * math.prod(self.shape[1:]) * _ITEM[self.dtype],
            segment.sha256,
        )

    def fits(self, ring: Ring) -> bool:
        """Whether the buffer has this shape and dtype."""
        return self.shape == tuple(ring.rows.shape) and self.dtype == _dtype(ring.rows)


def save_rows(
    folder: Path,
    ring: Ring,
    base: RingRecord | None,
    small: int = SMALL,
    root: Path | None = None,
) -> RingRecord:
    """Write the rows that are not in `base`, durably, and verify them by reading them back.

    Args:
        folder: folder of the segments.
        ring: the buffer.
        base: the record of the previous save or load of this buffer; its segments are reused.
        small: see `SMALL`.
        root: see `mtrl_fairgrad.utils.safe_files`, as everywhere here.

    Raises:
        OSError: writing failed.
    """
    shape, dtype = tuple(ring.rows.shape), _dtype(ring.rows)
    first = max(ring.added - shape[0], 0)
    segments: list[Segment] = []
    if base is not None and base.added <= ring.added:
        segments = [segment for segment in base.segments if segment.stop > first]
        if not all(_is_whole(folder / each.name, base.content(each), root) for each in segments):
            segments = []
        while segments and base.content(segments[-1]).bytes < small:
            segments.pop()
    start = segments[-1].stop if segments else first
    if start < ring.added:
        segments.append(_save(folder, ring, start, ring.added, root))
    return RingRecord(shape, dtype, ring.added, tuple(segments))


def load_rows(folder: Path, record: RingRecord, ring: Ring, root: Path | None = None) -> None:
    """Fill a buffer of the same shape, verifying each file's checksum while reading.

    Raises:
        RunFolderError: a file is damaged or missing; the buffer's content is then undefined.
    """
    for segment in record.segments:
        path, content = folder / segment.name, record.content(segment)
        try:
            size = size_of(path, root)
            if size != content.bytes:
                raise RunFolderError(f"{path} is damaged ({size} bytes long, not {content.bytes})")
            digest = _load(path, ring, segment, root)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error.strerror})") from error
        if digest != segment.sha256:
            raise RunFolderError(f"{path} is damaged (SHA-256 mismatch)")
    ring.added = record.added


def _is_whole(path: Path, content: Content, root: Path | None) -> bool:
    try:
        return size_of(path, root) == content.bytes
    except FileNotFoundError:
        return False


def _save(folder: Path, ring: Ring, start: int, stop: int, root: Path | None) -> Segment:
    partial = temporary(folder / f"{start:012d}-{stop:012d}")
    parts = (_bytes(part.detach().cpu()) for part in _parts(ring, start, stop))
    content = write(partial, parts, root)
    read_back(partial, content, root)
    segment = Segment(start, stop, content.sha256)
    rename(partial, folder / segment.name, root)
    sync(folder, root)
    return segment


def _load(path: Path, ring: Ring, segment: Segment, root: Path | None) -> str:
    """Read a segment into the buffer; returns the SHA-256 of the file."""
    import torch

    digest = hashlib.sha256()
    with reading(path, root) as file:
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
    """Yield views of rows start … stop − 1 in the buffer, in order, in parts of limited size."""
    capacity = len(ring.rows)
    most = max(_PART // (ring.rows[0].numel() * ring.rows.element_size()), 1)
    while start < stop:
        index = start % capacity
        count = min(stop - start, capacity - index, most)
        yield ring.rows[index : index + count]
        start += count


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    flat: Any = tensor.flatten().view(torch.uint8).numpy()
    return memoryview(flat)


def _dtype(rows: Tensor) -> str:
    return str(rows.dtype).removeprefix("torch.")
