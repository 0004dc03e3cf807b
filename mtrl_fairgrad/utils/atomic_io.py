"""File operations that survive a crash: afterwards a file has its old content or its new content.

Everything that changes a run folder goes through this module, which calls `os` directly, without
Python's buffers, and relative to a handle of the folder: see `mtrl_fairgrad.utils.safe_files` for
`root`, and for what is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtrl_fairgrad.utils.safe_files import (
    SAFE,
    RunFolderError,
    check_regular,
    entries,
    folder_of,
    opened_folder,
    reading,
    size_of,
)

FLUSH_SECONDS = 10.0
"""Longest time that `AppendFile` keeps data in memory."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = tuple(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENODEV", "EREMOTEIO", "EUCLEAN", "ETIMEDOUT", "ENOTCONN")
    if hasattr(errno, name)
)
"""Errors of a disk, or of the connection to it, that fails."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EISDIR)
"""Errors of a file system that does not have a call."""
_PART = 2**20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_log = logging.getLogger(__name__)
_noted: set[int] = set()
"""Devices whose file systems cannot sync folders, as this process has logged."""


@dataclass(frozen=True, slots=True)
class Content:
    """Size and checksum of a file, or of its first bytes."""

    bytes: int
    sha256: str
    """Hexadecimal."""


# ---- writing ----


def write(path: Path, chunks: Iterable[bytes | memoryview], root: Path | None = None) -> Content:
    """Write a new file of any size and sync it; returns size and checksum of what was written.

    Raises:
        OSError: writing failed, or there is a file, link or folder of that name.
        RunFolderError: the folder lies behind a link.
    """
    digest, size = hashlib.sha256(), 0
    with opened(path, _NEW, root) as handle:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            _write_all(handle, chunk)
        os.fsync(handle)
    return Content(size, digest.hexdigest())


def write_atomic(path: Path, data: bytes, root: Path | None = None) -> None:
    """Write a file durably; readers and crashes see the old content or the new.

    A link of that name is replaced, not followed.
    """
    partial = temporary(path)
    try:
        write(partial, [data], root)
        rename(partial, path, root)
    except (OSError, RunFolderError) as error:
        with contextlib.suppress(OSError, RunFolderError):
            remove(partial, root)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync(path.parent, root)


def append(path: Path, end: int, data: bytes, root: Path | None = None) -> None:
    """Cut an existing file to `end` bytes and append `data` durably.

    A crash may leave a part of `data`; when writing fails, the file is cut to `end` bytes.

    Raises:
        OSError: writing failed.
        RunFolderError: as `open_handle`.
    """
    with opened(path, os.O_RDWR, root) as handle:
        os.ftruncate(handle, end)
        os.lseek(handle, end, os.SEEK_SET)
        try:
            _write_all(handle, data)
            os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)
            raise


def cut(path: Path, end: int, root: Path | None = None) -> None:
    """Cut a file to `end` bytes durably; a shorter one stays as it is."""
    if size_of(path, root) > end:
        append(path, end, b"", root)


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

    @property
    def size(self) -> int:
        """Bytes of the file after the next flush."""
        return self._end + len(self._pending)

    def write(self, data: bytes) -> None:
        """Add data; flushes every `FLUSH_SECONDS`, with OSError when writing fails."""
        self._pending += data
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Append everything durably; when writing fails (OSError), nothing was appended."""
        if self._pending:
            if not self._end and not os.path.lexists(self.path):
                write(self.path, [])
            append(self.path, self._end, bytes(self._pending))
            self._end += len(self._pending)
            self._pending.clear()
        self._flushed = time.monotonic()


def open_handle(path: Path, flags: int, root: Path | None = None) -> int:
    """Open a regular file to change it; new files get the mode that the umask leaves.

    Raises:
        OSError: it cannot be opened.
        RunFolderError: it is not a regular file, lies behind a link, or has another name, whose
            content would change, too.
    """
    with folder_of(path, root) as (folder, name):
        handle = check_regular(os.open(name, flags | SAFE, 0o666, dir_fd=folder), path)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise RunFolderError(
            f"{path} is a hard link, and changing it would change a file elsewhere: "
            "replace it by a copy of itself."
        )
    return handle


@contextlib.contextmanager
def opened(path: Path, flags: int, root: Path | None = None) -> Iterator[int]:
    """Open a file's handle and close it at the end; errors inside carry the file's name."""
    handle = open_handle(path, flags, root)
    try:
        yield handle
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


# ---- folders and names ----


def temporary(path: Path) -> Path:
    """Return a new name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")


def remove_temporaries(folder: Path, root: Path | None = None) -> None:
    """Remove the partial files that a killed process left in a folder."""
    for leftover in entries(folder, ".*.tmp", root):
        remove(leftover, root)


def rename(path: Path, target: Path, root: Path | None = None) -> None:
    """Rename a file or folder, replacing a file of that name; durable after `sync`."""
    with (
        folder_of(path, root) as (source_folder, source),
        folder_of(target, root) as (folder, name),
    ):
        os.replace(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)


def make_folder(path: Path, root: Path | None = None) -> None:
    """Make a folder durably in an existing one, unless it exists.

    Raises:
        OSError: it cannot be made.
        RunFolderError: it is or lies behind a link.
    """
    with folder_of(path, root) as (folder, name):
        try:
            os.mkdir(name, dir_fd=folder)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
    sync(path.parent, root)


def make_folders(path: Path, root: Path | None = None) -> None:
    """Make a folder and those above it unless they exist; those below `root` may not be links."""
    if root is None or path == root:
        os.makedirs(path, exist_ok=True)
    else:
        make_folders(path.parent, root)
        make_folder(path, root)


def remove(path: Path, root: Path | None = None) -> None:
    """Delete a file, a link, or a folder with its content, if it exists; follows no link."""
    with contextlib.suppress(FileNotFoundError), folder_of(path, root) as (folder, name):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=folder)
            return
        for inner in entries(path, root=root or path.parent):
            remove(inner, root or path.parent)
        os.rmdir(name, dir_fd=folder)


def sync(path: Path, root: Path | None = None) -> None:
    """Flush a folder's list of names to the disk, where the file system can do that."""
    if os.name == "nt":
        return  # Windows opens no folders
    with opened_folder(path, root) as handle:
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            device = os.fstat(handle).st_dev
            if device not in _noted:
                _noted.add(device)
                _log.warning(
                    "%s is on a file system that cannot sync folders (%s): a power cut may lose "
                    "the last checkpoint",
                    path,
                    error.strerror,
                )


# ---- checking ----


def content_of(path: Path, cached: bool = True, root: Path | None = None) -> Content:
    """Return size and checksum of a file; unless `cached`, read from the disk itself."""
    with reading(path, root) as file:
        if not cached and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # not every file system has it
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.file_digest(file, "sha256")
        return Content(file.tell(), digest.hexdigest())


def prefix_of(path: Path, size: int, root: Path | None = None) -> Content:
    """Return size and checksum of a file's first `size` bytes, or of all if it is shorter."""
    digest, left = hashlib.sha256(), size
    with reading(path, root) as file:
        while left and (part := file.read(min(left, _PART))):
            digest.update(part)
            left -= len(part)
    return Content(size - left, digest.hexdigest())


def read_back(path: Path, expected: Content, root: Path | None = None) -> None:
    """Read a written file from the disk; OSError if its content is not `expected`."""
    if content_of(path, cached=False, root=root) != expected:
        raise OSError(errno.EIO, "the data read back differ from the data written", str(path))


def is_fault(error: object) -> bool:
    """Whether an error is of a full or failing disk, and not of a mistake in a path."""
    return isinstance(error, OSError) and error.errno in (*_NO_ROOM, *_BROKEN)


def remedy(error: OSError) -> str:
    """Return the fix to suggest when a call to the disk failed."""
    if error.errno in _BROKEN:
        return "check the disk and the connection to it"
    return "make room" if error.errno in _NO_ROOM else "restore access to the folder"


def writing_remedy(error: OSError, alternative: str) -> str:
    """Return the fix to suggest when a file could also be written elsewhere."""
    return f"{remedy(error)}, or {alternative}" if is_fault(error) else alternative


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of reading a file of a run folder into a RunFolderError with the fix."""
    try:
        yield
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        fix = "restore it from a copy" if missing else remedy(error)
        raise RunFolderError(f"{path} cannot be read ({error.strerror}): {fix}.") from error
