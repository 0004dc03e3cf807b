"""Changes on the disk that survive a crash: the old content or the new, never a mixture.

Every call that changes the disk goes through `call`, so that a test can make any one of them fail,
or be the last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_CHUNK = 2**24
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunFolderError(ValueError):
    """A run folder cannot be made, read or written; the message is one sentence with the fix."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, or must hold."""

    bytes: int
    sha256: str
    """Hexadecimal."""


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The one way to the disk for whatever changes it."""
    return function(*arguments)


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> Content:
    """Write a file, however large, and have the disk hold it; returns what was given to the disk."""
    digest, size = hashlib.sha256(), 0
    with _named(path), call(open, path, "wb", 0) as file:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            _put(file, chunk)
        call(os.fsync, file.fileno())
    return Content(size, digest.hexdigest())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file durably; readers and crashes see the old content or the new."""
    partial = beside(path)
    try:
        write(partial, [data])
        rename(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    sync(path.parent)


def append(path: Path, end: int, data: bytes) -> None:
    """Have the file, durably, be its first `end` bytes and `data`; when the disk refuses, those
    bytes alone.

    A crash may leave a part of `data`.
    """
    with _named(path), call(open, path, "r+b", 0) as file:
        call(file.truncate, end)
        file.seek(end)
        try:
            _put(file, data)
            call(os.fsync, file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                call(file.truncate, end)
            raise


def cut(path: Path, end: int) -> None:
    """Have the file, durably, be its first `end` bytes; a shorter one stays as it is."""
    if path.stat().st_size > end:
        append(path, end, b"")


def content_of(path: Path, first: int | None = None, cached: bool = True) -> Content:
    """What a file holds, or its `first` bytes; from the disk rather than the system's memory if not
    `cached`.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb", 0) as file:
        if not cached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(_CHUNK if first is None else min(_CHUNK, first - size)):
            digest.update(chunk)
            size += len(chunk)
    return Content(size, digest.hexdigest())


def read_back(path: Path, given: Content) -> None:
    """Refuse what the disk does not give back as it was given.

    Raises:
        OSError: it does not.
    """
    if content_of(path, cached=False) != given:
        raise OSError(errno.EIO, "what was written is not what is read back", str(path))


def beside(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.tmp")


def sweep(folder: Path) -> None:
    """Remove what a killed process left `beside` the files of a folder."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover)


def rename(path: Path, target: Path) -> None:
    """Give a file or folder its name, in place of a file that has it; durable with the `sync` of
    the folder.
    """
    call(os.replace, path, target)


def make_folder(path: Path) -> None:
    """Make one folder, durably, in one that is there; it may be there itself."""
    if not path.is_dir():
        call(os.mkdir, path)
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove(inner)
        call(os.rmdir, path)
        return
    with contextlib.suppress(FileNotFoundError):
        call(os.unlink, path)


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    with _named(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            call(os.fsync, handle)
        finally:
            os.close(handle)


def remedy(error: OSError) -> str:
    """What to do when the disk has refused."""
    return "make room" if error.errno in _NO_ROOM else "restore access to the folder"


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have errors tell of which file they are; those of open files do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _put(file: IO[bytes], data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[call(file.write, left) :]
