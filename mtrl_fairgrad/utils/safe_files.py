"""Open, read and list files of a folder that somebody else may have made.

Archives and repositories keep symbolic links, and a folder may hold named pipes, devices and sparse
files. Every path has a `root`, the folder that the user named, which may be a link itself. Below
it no link is followed, and only regular files of limited size are read; anything else raises
`RunFolderError` with its name. All calls are relative to a handle of the folder, so that nothing
can be exchanged between a check and its use (not on Windows, which has no such calls).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

MAX_LINE = 2**16
"""Largest line of a text file, in bytes."""
SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags of every file: no link, no waiting for the other end of a pipe, no translated line ends."""
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | _FOLDER  # O_PATH needs no right to list names
_RELATIVE = os.open in os.supports_dir_fd
_OF_KIND = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EMLINK)
"""Numbers of errors of opening what is not a regular file, or not a folder."""
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class RunFolderError(ValueError):
    """A run folder cannot be made, read or written; the message is one sentence with the fix."""


# ---- opening ----


@contextlib.contextmanager
def folder_of(path: Path, root: Path | None = None) -> Iterator[tuple[int | None, str]]:
    """Open the folder of a file; yields its handle, as `dir_fd`, and the file's name in it.

    An OSError inside carries the file's path, and becomes a RunFolderError if it came of a file
    that is not a regular one.

    Args:
        path: the file, which need not exist.
        root: the folder below which no link is followed; by default the file's own.
    """
    with _opened_folder(path.parent, root) as folder:
        name = str(path) if folder is None else path.name
        with _naming(path, folder, name):
            yield folder, name


@contextlib.contextmanager
def opened_folder(path: Path, root: Path | None = None) -> Iterator[int]:
    """Open a folder to list or sync it; raises as `reading`. Not for Windows."""
    with _opened_folder(path, root) as folder, _naming(path, folder, "."):
        handle = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=folder)
        try:
            yield handle
        finally:
            os.close(handle)


@contextlib.contextmanager
def reading(path: Path, root: Path | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading in binary mode.

    Raises:
        OSError: it is missing or cannot be read.
        RunFolderError: it is not a regular file, or lies behind a link.
    """
    with folder_of(path, root) as (folder, name):
        handle = check_regular(os.open(name, os.O_RDONLY | SAFE, dir_fd=folder), path)
        with open(handle, "rb") as file:
            yield file


def check_regular(handle: int, path: Path) -> int:
    """Return an open handle if it is of a regular file; otherwise close it and raise."""
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    raise _not_regular(path, mode)


@contextlib.contextmanager
def _opened_folder(path: Path, root: Path | None) -> Iterator[int | None]:
    """Open a folder as `dir_fd`; None on Windows, where files are named by their paths."""
    root = path if root is None else root
    with contextlib.ExitStack() as handles:
        folder, step = None, root
        if _RELATIVE:
            folder = os.open(root, _SEARCH)
            handles.callback(os.close, folder)
        for name in path.relative_to(root).parts:
            step /= name
            if name == os.pardir or (folder is None and step.is_symlink()):
                raise _not_regular(step, stat.S_IFLNK)
            if folder is not None:
                with _naming(step, folder, name):
                    folder = os.open(name, _SEARCH | SAFE, dir_fd=folder)
                handles.callback(os.close, folder)
        yield folder


@contextlib.contextmanager
def _naming(path: Path, folder: int | None, name: str) -> Iterator[None]:
    """Give an OSError the file's path, or turn it into one about the kind of the file."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, name):  # of another file
            raise
        error.filename = str(path)
        if error.errno not in _OF_KIND:
            raise
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except OSError:
            raise error from None
        if stat.S_IFMT(mode) not in _KINDS:
            raise
        raise _not_regular(path, mode) from error


def _not_regular(path: Path, mode: int) -> RunFolderError:
    if stat.S_ISDIR(mode):
        return RunFolderError(f"{path} is a folder, but a file belongs there: remove it.")
    kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
    return RunFolderError(
        f"{path} is {kind}, and only regular files and folders are used here: put a copy of the "
        "content in its place, or remove it."
    )


# ---- reading ----


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: it is missing or cannot be read.
        RunFolderError: it is larger, not a regular file, or lies behind a link.
    """
    with reading(path, root) as file:
        size = os.fstat(file.fileno()).st_size
        check_limit(path, size, limit)
        return file.read(size)  # not what another process appends meanwhile


def read_lines(path: Path, limit: int, root: Path | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the complete lines of a regular file of at most `limit` bytes, with their ends.

    Lines of more than `MAX_LINE` bytes are yielded as empty, so memory is bounded. An end is the
    number of bytes up to and with the line. Raises as `read_bytes`.
    """
    with reading(path, root) as file:
        check_limit(path, os.fstat(file.fileno()).st_size, limit)
        end, complete = 0, True
        while part := file.readline(MAX_LINE):
            end += len(part)
            if part.endswith(b"\n"):
                yield end, part if complete else b""
            complete = part.endswith(b"\n")


def check_limit(path: Path, size: int, limit: int) -> None:
    """Raise RunFolderError if a file's size in bytes is above a limit."""
    if size > limit:
        raise RunFolderError(
            f"{path} has more than the {limit:,} bytes that such a file may have: "
            "restore it from a copy."
        )


def size_of(path: Path, root: Path | None = None) -> int:
    """Return the size of a regular file in bytes; raises as `reading`."""
    with folder_of(path, root) as (folder, name):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise _not_regular(path, found.st_mode)
    return found.st_size


def is_present(path: Path) -> bool:
    """Whether a folder has an entry of that name, a link or a pipe included.

    What is not a regular file is refused when it is read.
    """
    return os.path.lexists(path)


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """List what is not a folder in a folder and all folders below it; follows no link."""
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in fnmatch.filter(names, pattern)
    ]


def entries(folder: Path, pattern: str = "*", root: Path | None = None) -> list[Path]:
    """List a folder's entries whose names match a pattern, sorted; none if it is missing.

    Args:
        folder: the folder; links in it are listed, too, and refused when they are read.
        pattern: as of a shell; a leading dot needs no dot in the pattern.
        root: the folder below which no link is followed; by default `folder`.

    Raises:
        OSError: it cannot be read.
        RunFolderError: it lies behind a link.
    """
    try:
        if not _RELATIVE:
            names = os.listdir(folder)
        else:
            with opened_folder(folder, root) as handle:
                names = os.listdir(handle)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(fnmatch.filter(names, pattern))]
