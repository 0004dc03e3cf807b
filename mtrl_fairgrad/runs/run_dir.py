"""The run folder of an agent.

In addition to the files that `mtrl_fairgrad.runs.base_run_dir` describes, it holds

    evaluations.csv          one row per (env_steps, seed, task)
    metrics.csv              logged metrics, see `mtrl_fairgrad.runs.metrics_log`
    incidents.csv            numerical faults, see `mtrl_fairgrad.runs.fault_log`
    resumes.jsonl            versions of each resume, see `mtrl_fairgrad.runs.resume_log`
    report.csv, report.png   the report, and in report.sha256 the checksums of both
    events.out.tfevents.*    logged metrics, for TensorBoard

and its manifest records the evaluation protocol.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import yaml

from mtrl_fairgrad.config.older_runs import complete
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs import fault_log, metrics_log, resume_log
from mtrl_fairgrad.runs.base_run_dir import CONFIG, CURVES, MANIFEST, BaseRunFolder
from mtrl_fairgrad.runs.checkpoint.store import Checkpoint, CheckpointError
from mtrl_fairgrad.runs.evaluation_table import COLUMNS, Evaluation, Format
from mtrl_fairgrad.runs.metric_entries import WALL_SECONDS, WORKERS_REPLACED
from mtrl_fairgrad.utils.arguments import command_line
from mtrl_fairgrad.utils.atomic_io import (
    RunFolderError,
    append,
    cut,
    opened,
    reading_errors,
    remedy,
    remove,
    write_atomic,
)
from mtrl_fairgrad.utils.file_schema import check_schema
from mtrl_fairgrad.utils.safe_files import check_limit, entries, read_bytes

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Evaluation",
    "RunFolder",
    "RunFolderError",
    "write_atomic",
]

EVALUATIONS = "evaluations.csv"
MAX_BYTES = 2**27
"""Largest size of evaluations.csv, about two million rows."""
REPORT, FIGURE, CHECKSUMS = "report.csv", "report.png", "report.sha256"
"""The report of the run, and the SHA-256 of both its files, as `sha256sum` writes them."""


class _Method(TypedDict, total=False):
    name: str


class RunFolder(BaseRunFolder):
    """The run folder of an agent, with evaluations."""

    tables: ClassVar[Mapping[str, bytes]] = {EVALUATIONS: Format().header}
    written: ClassVar[tuple[str, ...]] = (
        *CURVES,
        fault_log.NAME,
        resume_log.NAME,
        REPORT,
        FIGURE,
        CHECKSUMS,
    )
    recorded: ClassVar[tuple[str, ...]] = (MANIFEST, *CURVES, fault_log.NAME, resume_log.NAME)

    @classmethod
    def check_config(cls, config: dict[str, Any]) -> None:
        """Raise ConfigError if an option of a stored configuration has another type or bounds."""
        check_schema(complete(config), Config)
        check_schema(config.get("method", {}), _Method, "method")

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
        table, lines = self._table()
        # An incomplete line, left by a killed process, is overwritten.
        rows = table.encode(evaluations)
        check_limit(self._file, len(lines) + len(rows), MAX_BYTES)
        append(self._file, len(lines), rows)

    def evaluations(self) -> list[Evaluation]:
        """Read all rows in the order of writing, without an incomplete last line."""
        table, data = self._table()
        rows = data[len(table.header) :].decode(errors="replace").split("\n")[:-1]
        return [
            _evaluation(table, line, f"line {n} of {self._file}")
            for n, line in enumerate(rows, start=2)
        ]

    def rewind(self, saved: Checkpoint | None) -> None:
        """Cut evaluations and curves back to a checkpoint, or to nothing; call under `lock`.

        The resumed run writes the rest again. An interrupted rewind can be repeated. Without a
        checkpoint, `check_start_over` has to accept the folder first.

        Raises:
            RunFolderError: a file cannot be changed; none was.
        """
        header = self._table()[0].header
        sizes = {EVALUATIONS: len(header)} if saved is None else saved.run_file_sizes
        curves = [path for pattern in CURVES for path in entries(self.path, pattern)]
        cuttable = [path for path in (self._file, *curves) if path.name in sizes]
        for path in (*cuttable, *entries(self.path, resume_log.NAME)):
            self._check_writable(path)
        self.clean()
        cut(self._file, sizes[EVALUATIONS])
        for path in curves:
            if path.name in sizes:
                cut(path, sizes[path.name])
            else:
                remove(path)

    @staticmethod
    def _check_writable(path: Path) -> None:
        try:
            with opened(path, os.O_RDWR):
                pass
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror}): {remedy(error)}."
            ) from error

    # ---- without checkpoints ----

    @property
    def last_evaluated(self) -> int | None:
        """The env_steps of the last evaluation; None before the first."""
        return max((row.env_steps for row in self.evaluations()), default=None)

    def exported_policies(self) -> list[Path]:
        """List the policies that `evaluate --export` wrote into this folder.

        Raises:
            RunFolderError: their folder is a link.
        """
        return entries(self.path / "policies", "policy-*.json", self.path)

    def check_start_over(self) -> None:
        """Check that a run without checkpoints has no results that a new start would delete.

        A process that ended before its first checkpoint, at env_steps 0, leaves at most the
        evaluation of the untrained policy, which a new start repeats exactly.

        Raises:
            RunFolderError: there are results of training, or the evaluations cannot be read.
        """
        found = self._results()
        if found:
            raise RunFolderError(
                f"resume={self.path} would start over, since there is no checkpoint, and delete "
                f"{found}: {self.without_checkpoint()}."
            )

    def without_checkpoint(self) -> str:
        """Return what can be done with this run if it has no intact checkpoint, for messages."""
        if not self._results():
            if self.has_checkpoint():  # all of them are damaged
                return super().without_checkpoint()
            return f"it ended before its first one; {self.how_to_continue(self.path)}"
        reported = f"report on it ({command_line('report', self.path)})"
        policies = self.exported_policies()
        evaluated = (
            f"evaluate its {len(policies)} exported policies, such as "
            f"{command_line('evaluate', policies[0])}"
            if policies
            else "no policy of it was exported"
        )
        return (
            "restore its checkpoints from a copy, or start a new run in another folder; "
            f"you can still {reported}{', and ' if policies else '; '}{evaluated}"
        )

    def _results(self) -> str:
        """Describe what training recorded after env_steps 0; empty if there is nothing."""
        if last := self.last_evaluated:
            return f"its evaluations up to env_steps {last}"
        unrelated = (WALL_SECONDS, WORKERS_REPLACED)  # logged at env_steps 0 or 1 before training
        logged = [
            entry.env_steps
            for entry in metrics_log.read_entries(self.path)
            if entry.name not in unrelated
        ]
        if last := max(logged, default=0):
            return f"its curves up to env_steps {last}"
        return "its exported policies" if self.exported_policies() else ""

    def _table(self) -> tuple[Format, bytes]:
        """Return the format of the rows, and the file's complete lines, heading included."""
        with reading_errors(self._file):
            data = read_bytes(self._file, MAX_BYTES)
        lines = data[: data.rfind(b"\n") + 1]
        header = lines.partition(b"\n")[0].decode(errors="replace")
        env = self.config.get("env")
        table = Format.of(
            header, stops=not isinstance(env, dict) or env.get("suite") != "gymnasium"
        )
        if table is None:
            raise RunFolderError(
                f"{self._file} does not begin with {','.join(COLUMNS)}: restore it from a copy."
            )
        return table, lines


def _evaluation(table: Format, line: str, location: str) -> Evaluation:
    try:
        return table.decode(line)
    except ValueError:
        raise RunFolderError(
            f"{location} is damaged ({line!r}): restore the file from a copy."
        ) from None
