"""A small ext4 file system in a file, whose power can be cut: everything unsynced is then lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN: stop a mounted file system."""
WITHOUT_FLUSH = 2
"""Its flag to write neither the journal nor data first."""
BUSY_SECONDS = 10.0


class LoopDisk:
    """An ext4 file system that is mounted at `place`; needs the rights of root.

    Args:
        place: folder that does not exist.
        megabytes: size of the file system.

    Raises:
        OSError: this machine does not allow it.
    """

    def __init__(self, place: Path, megabytes: int = 64) -> None:
        self.place, self._image = place, place.with_suffix(".ext4")
        if not all(map(shutil.which, ("mkfs.ext4", "mount", "umount"))):
            raise OSError("mkfs.ext4, mount and umount are needed")
        place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes * 2**20)
        _call("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()

    def _mount(self) -> None:
        _call("mount", "-o", "loop", str(self._image), str(self.place))

    def unmount(self) -> None:
        """Unmount, as soon as no process uses it."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return _call("umount", str(self.place))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def cut_power(self) -> None:
        """Lose everything that was not synced; processes get EIO from now on."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(handle)

    def restart(self) -> None:
        """Mount again after the power was cut; ext4 replays its journal."""
        self.unmount()
        self._mount()


def _call(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"{command[0]} failed: {ended.stderr.strip()}")
