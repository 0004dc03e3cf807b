"""A disk that fails at a given call, for tests of atomic writes."""

import errno
import os
from collections import Counter


class PatchedOs:
    """Stands in for the module `os` in `atomic_io`; calls that change the disk go to `call`.

    Args:
        call: gets the function of `os` and its arguments.
    """

    CHANGING = ("open", "write", "ftruncate", "fsync", "mkdir", "replace", "unlink", "rmdir")

    def __init__(self, call):
        self.call = call

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in self.CHANGING:
            return function

        def patched(*arguments, **folders):
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return function(*arguments, **folders)
            return self.call(function, *arguments, **folders)

        return patched


class Killed(BaseException):
    """The end of a process."""


class Disk:
    """A disk with a fault; what `PatchedOs` calls.

    Args:
        allowed: calls that succeed.
        fault: what then happens: "once" a call fails with EIO; the disk stays "full"; "killed": the
            process ends in the midst of a call; "power": and what was never synced is lost.
    """

    def __init__(self, allowed, fault):
        self.allowed, self.fault = allowed, fault
        self.calls = Counter()
        self.unsynced = {}
        """Of files by number: how long they were when they were last synced."""

    def __call__(self, function, *arguments, **folders):
        name = function.__name__
        late = sum(self.calls.values()) - self.allowed
        self.calls[name] += 1
        if late < 0 or (self.fault == "once" and late > 0):
            return self.through(name, function, arguments, folders)
        if self.fault == "once":
            raise OSError(errno.EIO, os.strerror(errno.EIO), "the disk")
        if self.fault == "full":
            if name in ("open", "mkdir", "write"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the disk")
            return self.through(name, function, arguments, folders)
        if name == "write" and late == 0:
            handle, data = arguments
            self.through(name, function, (handle, data[: len(data) // 2]), {})
        raise Killed

    def through(self, name, function, arguments, folders):
        if name == "fsync":  # nobody pulls the plug: what is not synced is forgotten below
            self.unsynced.pop(os.fstat(arguments[0]).st_ino, None)
            return None
        if name == "write":
            file = os.fstat(arguments[0])
            self.unsynced.setdefault(file.st_ino, file.st_size)
        return function(*arguments, **folders)

    def lose_what_was_not_synced(self, folder):
        for path in folder.rglob("*"):
            file = path.stat()
            if path.is_file() and file.st_ino in self.unsynced:
                os.truncate(path, (self.unsynced[file.st_ino] + file.st_size) // 2)
