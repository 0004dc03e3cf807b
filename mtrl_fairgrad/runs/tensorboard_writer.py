"""Write TensorBoard event files in the calling thread, so that a full disk raises an error.

PyTorch's SummaryWriter writes from a thread, which ends at such an error and prints a traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_fairgrad.runs.metric_entries import EVENT_FILES
from mtrl_fairgrad.utils.atomic_io import AppendFile
from mtrl_fairgrad.utils.safe_files import entries

_STAMP = re.compile(r"events\.out\.tfevents\.(\d{1,10})\b")


class EventFile:
    """Entries of one training process; the file is made with the first flush.

    Args:
        folder: where the file is written.
        purge_step: TensorBoard drops entries from this step on in older files of the folder.
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

        self._event = Event
        self._summary = Summary
        # Zeros, because readers order the files by their names as texts.
        self.path = folder / f"events.out.tfevents.{_stamp(folder):017.6f}.{os.getpid()}"
        self._file = AppendFile(self.path)
        self._record = io.BytesIO()
        self._records = RecordWriter(self._record)
        self._add(step=purge_step, file_version="brain.Event:2")
        self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a value; OSError when a due write fails."""
        scalar = self._summary.Value(tag=tag, simple_value=float(value))
        self._add(step=step, summary=self._summary(value=[scalar]))

    def add_text(self, tag: str, markdown: str, step: int) -> None:
        """Add a text in Markdown, which TensorBoard shows under TEXT."""
        from torch.utils.tensorboard.summary import text

        self._add(step=step, summary=text(tag, markdown))

    def add_hyper_parameters(
        self, values: Mapping[str, str | float | bool], metrics: Sequence[str], step: int
    ) -> None:
        """Add hyper-parameters, and the scalars by which TensorBoard's HPARAMS compares runs.

        Args:
            values: name -> value.
            metrics: tags of scalars.
            step: step of the entries.
        """
        from torch.utils.tensorboard.summary import hparams

        experiment, session, _ = hparams(dict(values), dict.fromkeys(metrics, 0.0))
        for summary in (experiment, session):  # the third one states that the run has ended
            self._add(step=step, summary=summary)

    def add_charts(self, charts: Mapping[str, Mapping[str, str]], step: int) -> None:
        """Add charts of several scalars each, which TensorBoard shows under CUSTOM SCALARS.

        Args:
            charts: category -> title -> regular expression of the tags that a chart shows.
            step: step of the entry.
        """
        from torch.utils.tensorboard.summary import custom_scalars

        layout: dict[str, Any] = {
            category: {title: ["Multiline", [tags]] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
        self._add(step=step, summary=custom_scalars(layout))

    def flush(self) -> None:
        """Write all entries durably; an OSError leaves whole entries."""
        self._file.flush()

    def close(self) -> None:
        """Write the remaining entries; errors are ignored, since a resumed run repeats them."""
        with contextlib.suppress(OSError):
            self.flush()

    def _add(self, **content: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        data = self._record.getvalue()
        self._record.seek(0)
        self._record.truncate()
        self._file.write(data)


def _stamp(folder: Path) -> float:
    """Return the time of creation in a file's name, after those that are there.

    The clock may have been set back since an earlier process wrote them.
    """
    found = [_STAMP.match(path.name) for path in entries(folder, EVENT_FILES)]
    return max([time.time(), *(int(match[1]) + 1.0 for match in found if match)])
