"""The lock of a run folder, run.lock, held by the process that trains there.

The file contains a random token of the process that locked the folder last. A process that was
stopped for a while sees from it that another one has taken the folder over.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from mtrl_fairgrad.utils.atomic_io import RunFolderError, open_handle

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None

NAME = "run.lock"
_TOKEN_BYTES = 16
_log = logging.getLogger(__name__)
_holders: dict[tuple[int, str], RunLock] = {}
"""What holds a file in a process: locks of the system do not exclude others of their process."""


class RunLock:
    """The lock of a folder, for one object of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._token: bytes | None = None
        """What this object wrote when it locked the folder last; None before."""
        self._handle: int | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other training processes.

        The system frees the lock when this process ends; forked workers do not inherit it.

        Raises:
            RunFolderError: another process or object holds the lock, another process had it since
                this object did, or the folder is not writable.
        """
        if self._handle is not None:  # by this object already: a second handle would free it
            if not self.is_own():  # possible where the file system has no locks
                raise self._taken()
            yield
            return
        file = os.getpid(), os.path.realpath(self._path)
        if _holders.setdefault(file, self) is not self:  # refused before a handle is closed
            raise self._taken("this process")
        try:
            with self._locked():
                yield
        finally:
            del _holders[file]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            # Not closed by anybody else: closing any handle of the file would free the lock.
            self._handle = open_handle(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunFolderError(
                f"{self._folder} is not writable ({error.strerror}): restore access to it."
            ) from error
        try:
            self._lock(self._handle)
            if self._token is not None and not self.is_own():
                raise RunFolderError(
                    f"another process has taken over {self._folder} since this one made it: "
                    "choose another run_dir."
                )
            token = os.urandom(_TOKEN_BYTES)
            with contextlib.suppress(OSError):  # a full disk; then the old token stays
                os.lseek(self._handle, 0, os.SEEK_SET)
                os.write(self._handle, token)
            self._token = _token_of(self._handle)
            yield
        finally:
            os.close(self._handle)
            self._handle = None

    def is_own(self) -> bool:
        """Whether the folder still has the file that is locked, with this object's token."""
        if self._handle is None:
            return False
        return os.fstat(self._handle).st_nlink > 0 and _token_of(self._handle) == self._token

    def _lock(self, handle: int) -> None:
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of the two depends on the file system
            raise self._taken() from None
        except OSError as error:
            # Some cluster file systems have no locks; training must work there, too.
            if self._token is None:  # not said before
                _log.warning(
                    "%s cannot be locked (%s): let only one process train there",
                    self._folder,
                    error.strerror,
                )
        if os.fstat(handle).st_nlink == 0:  # its holder removed it with the rest of the run
            raise self._taken()

    def _taken(self, holder: str = "another process") -> RunFolderError:
        return RunFolderError(
            f"{holder} is training in {self._folder}: wait for its end, stop it, "
            "or choose another run_dir."
        )


def _token_of(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, _TOKEN_BYTES)
