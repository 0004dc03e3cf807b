"""`logger=csv`: every scalar as a line `env_steps,name,value` of scalars.csv in the run folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.metrics_log import COLUMNS, SCALARS
from mtrl_fairgrad.utils.atomic_io import AppendFile
from mtrl_fairgrad.utils.text_tables import csv_text


class CsvLog:
    """What TensorBoard shows, as text; metrics.csv has only what reports read.

    Args:
        folder: the run folder; an existing file is continued.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / SCALARS
        with contextlib.suppress(FileNotFoundError):
            self._file = AppendFile(path, path.stat().st_size)
            return
        self._file = AppendFile(path)
        self._file.write(csv_text([COLUMNS]).encode())

    def describe(self, config: Config, env_steps: int) -> None:
        """Write nothing: config.yaml is in the same folder."""

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value; OSError when a due write fails."""
        self._file.write(csv_text([(env_steps, name, repr(float(value)))]).encode())

    def flush(self) -> None:
        """Write all lines durably; an OSError leaves whole lines."""
        self._file.flush()

    def close(self) -> None:
        """Write the remaining lines; errors are ignored, since a resumed run repeats them."""
        with contextlib.suppress(OSError):
            self.flush()
