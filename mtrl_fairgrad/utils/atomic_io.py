"""File operations that survive a crash: afterwards a file has its old content or its new content.

Everything that changes a run folder goes through this module, which calls `os` directly, without
Python's buffers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FLUSH_SECONDS = 10.0
"""Longest time that `AppendFile` keeps data in memory."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends


class RunFolderError(ValueError):
    """A run folder cannot be made, read or written; the message is one sentence with the fix."""


@dataclass(frozen=True, slots=True)
class Content:
    """Size and checksum of a file, or of its first bytes."""

    bytes: int
    sha256: str
    """Hexadecimal."""


# ---- writing ----


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> Content:
    """Write a file of any size and sync it; returns size and checksum of what was written."""
    digest, size = hashlib.sha256(), 0
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            _write_all(handle, chunk)
        os.fsync(handle)
    return Content(size, digest.hexdigest())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file durably; readers and crashes see the old content or the new."""
    partial = temporary(path)
    try:
        write(partial, [data])
        rename(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    sync(path.parent)


def append(path: Path, end: int, data: bytes) -> None:
    """Cut an existing file to `end` bytes and append `data` durably.

    A crash may leave a part of `data`; when writing fails, the file is cut to `end` bytes.
    """
    with opened(path, os.O_RDWR) as handle:
        os.ftruncate(handle, end)
        os.lseek(handle, end, os.SEEK_SET)
        try:
            _write_all(handle, data)
            os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)
            raise


def cut(path: Path, end: int) -> None:
    """Cut a file to `end` bytes durably; a shorter one stays as it is."""
    if path.stat().st_size > end:
        append(path, end, b"")


class AppendFile:
    """A growing file of one process: data is collected in memory and appended durably.

    Args:
        path: made by the first flush if it does not exist.
        end: bytes of the file to keep; a torn end beyond them is overwritten.
    """

    def __init__(self, path: Path, end: int = 0) -> None:
        self.path = path
        self._end = end
        self._pending = bytearray()
        self._flushed = time.monotonic()

    def write(self, data: bytes) -> None:
        """Add data; flushes every `FLUSH_SECONDS`, with OSError when writing fails."""
        self._pending += data
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Append everything durably; when writing fails (OSError), nothing was appended."""
        if self._pending:
            if not self._end and not self.path.exists():
                write(self.path, [])
            append(self.path, self._end, bytes(self._pending))
            self._end += len(self._pending)
            self._pending.clear()
        self._flushed = time.monotonic()


def open_handle(path: Path, flags: int) -> int:
    """Open a file with `os.open`; new files get the mode that the umask leaves."""
    return os.open(path, flags | _BINARY, 0o666)


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file's handle and close it at the end; errors inside carry the file's name."""
    try:
        handle = open_handle(path, flags)
        try:
            yield handle
        finally:
            os.close(handle)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _write_all(handle: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


# ---- folders and names ----


def temporary(path: Path) -> Path:
    """Return the name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove the partial files that a killed process left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover)


def rename(path: Path, target: Path) -> None:
    """Rename a file or folder, replacing a file of that name; durable after `sync(folder)`."""
    os.replace(path, target)


def make_folder(path: Path) -> None:
    """Make a folder durably in an existing one, unless it exists."""
    if not path.is_dir():
        os.mkdir(path)
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove(inner)
        os.rmdir(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    with opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)


# ---- checking ----


def content_of(path: Path, cached: bool = True) -> Content:
    """Return size and checksum of a file; unless `cached`, read from the disk itself."""
    with path.open("rb", 0) as file:
        if not cached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.file_digest(file, "sha256")
        return Content(file.tell(), digest.hexdigest())


def prefix_of(path: Path, size: int) -> Content:
    """Return size and checksum of a file's first `size` bytes, or of all if it is shorter."""
    with path.open("rb") as file:
        data = file.read(size)
    return Content(len(data), hashlib.sha256(data).hexdigest())


def read_back(path: Path, expected: Content) -> None:
    """Read a written file from the disk; OSError if its content is not `expected`."""
    if content_of(path, cached=False) != expected:
        raise OSError(errno.EIO, "the data read back differ from the data written", str(path))


def remedy(error: OSError) -> str:
    """Return the fix to suggest when a call to the disk failed."""
    return "make room" if error.errno in _NO_ROOM else "restore access to the folder"
