"""The run folder of an agent.

In addition to the files that `mtrl_fairgrad.runs.base_run_dir` describes, it holds

    evaluations.csv          one row per (env_steps, seed, task)
    metrics.csv              logged metrics, see `mtrl_fairgrad.runs.metrics_log`
    incidents.csv            numerical faults, see `mtrl_fairgrad.runs.fault_log`
    events.out.tfevents.*    logged metrics, for TensorBoard

and its manifest records the evaluation protocol.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from mtrl_fairgrad.runs.base_run_dir import CONFIG, CURVES, BaseRunFolder
from mtrl_fairgrad.runs.checkpoint.store import Checkpoint, CheckpointError
from mtrl_fairgrad.utils.atomic_io import RunFolderError, append, cut, remove, write_atomic
from mtrl_fairgrad.utils.text_tables import csv_text

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Evaluation",
    "RunFolder",
    "RunFolderError",
    "write_atomic",
]

EVALUATIONS = "evaluations.csv"
COLUMNS = ("env_steps", "seed", "task", "episodes", "success", "return")
_HEADER = csv_text([COLUMNS]).encode()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one task and seed, after `env_steps` transitions of that task."""

    env_steps: int
    seed: int
    task: str
    episodes: int
    success: float
    """Rate over `episodes`, in [0, 1]."""
    return_: float
    """Mean undiscounted return of an episode."""


class RunFolder(BaseRunFolder):
    """The run folder of an agent, with evaluations."""

    tables: ClassVar[Mapping[str, bytes]] = {EVALUATIONS: _HEADER}

    @property
    def steps(self) -> int:
        """Length of the run, in env_steps."""
        steps = self.config.get("steps")
        if not isinstance(steps, int) or steps < 1:
            raise RunFolderError(
                f"{self.path / 'config.yaml'} has steps={steps!r}: restore it from a copy."
            )
        return steps

    def extend(self, steps: int) -> None:
        """Change the length of the run in its configuration; call under `lock`."""
        self.config["steps"] = steps
        write_atomic(self.path / CONFIG, yaml.safe_dump(self.config, sort_keys=False).encode())

    # ---- evaluations ----

    @property
    def _file(self) -> Path:
        return self.path / EVALUATIONS

    def append_evaluation(self, evaluations: Iterable[Evaluation]) -> None:
        """Append rows durably, all or none; OSError when writing fails."""
        block = csv_text(map(astuple, evaluations)).encode()
        # An incomplete line, left by a killed process, is overwritten.
        append(self._file, len(self._whole_lines()), block)

    def evaluations(self) -> list[Evaluation]:
        """Read all rows in the order of writing, without an incomplete last line."""
        header, *lines = self._whole_lines().decode(errors="replace").split("\n")[:-1] or [""]
        if header != ",".join(COLUMNS):
            raise RunFolderError(
                f"{self._file} does not begin with {','.join(COLUMNS)}: restore it from a copy."
            )
        return [
            _evaluation(line, f"line {n} of {self._file}") for n, line in enumerate(lines, start=2)
        ]

    def rewind(self, saved: Checkpoint | None) -> None:
        """Cut evaluations and curves back to a checkpoint, or to nothing; call under `lock`.

        The resumed run writes the rest again. An interrupted rewind can be repeated.
        """
        sizes = {EVALUATIONS: len(_HEADER)} if saved is None else saved.run_file_sizes
        cut(self._file, sizes[EVALUATIONS])
        for path in (path for pattern in CURVES for path in self.path.glob(pattern)):
            if path.name in sizes:
                cut(path, sizes[path.name])
            else:
                remove(path)

    def _whole_lines(self) -> bytes:
        try:
            data = self._file.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"{self._file} cannot be read ({error.strerror}): restore it from a copy."
            ) from error
        return data[: data.rfind(b"\n") + 1]


def _evaluation(line: str, location: str) -> Evaluation:
    try:
        [[env_steps, seed, task, episodes, success, return_]] = csv.reader([line])
        evaluation = Evaluation(
            int(env_steps), int(seed), task, int(episodes), float(success), float(return_)
        )
        if not 0 <= evaluation.success <= 1:
            raise ValueError
    except ValueError:
        raise RunFolderError(
            f"{location} is damaged ({line!r}): restore the file from a copy."
        ) from None
    return evaluation
