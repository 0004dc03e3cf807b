"""TensorBoard's event files, written through `mtrl_fairgrad.utils.atomic_io`: a full disk is an
error where it happens.

PyTorch's SummaryWriter writes from a thread, which dies at such an error with a page on the
terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path

from mtrl_fairgrad.utils.atomic_io import append, call

_SECONDS = 10.0
"""Entries are on the disk, for those who look on, after this long."""


class EventFile:
    """Scalars of one process that trains in a folder; the file is made with the first entry.

    Args:
        folder: where it goes.
        purge_step: entries from this step on, in older files of the folder, are void.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import (  # pyright: ignore[reportMissingImports]
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.compat.proto.summary_pb2 import (  # pyright: ignore[reportMissingImports]
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        # Names begin with the time of making, by which readers order the files.
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self._end, self._flushed = 0, time.monotonic()
        self._pending = io.BytesIO()
        self._records = RecordWriter(self._pending)
        self._add(step=purge_step, file_version="brain.Event:2")
        self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Note a value; OSError when it is time to write and the disk refuses."""
        scalar = self._summary.Value(tag=tag, simple_value=float(value))
        self._add(step=step, summary=self._summary(value=[scalar]))
        if time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Have everything on the disk; OSError when it refuses, and the file ends with a whole
        entry as before.
        """
        data = self._pending.getvalue()
        if data:
            if not self._end:
                call(open, self.path, "xb").close()
            append(self.path, self._end, data)
            self._end += len(data)
            self._pending.seek(0)
            self._pending.truncate()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left, if the disk takes it: a run that goes on from a checkpoint makes
        these entries again.
        """
        with contextlib.suppress(OSError):
            self.flush()

    def _add(self, **content: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
