"""A finished or unfinished run, as Python sees it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl_fairgrad.api.table import Table
from mtrl_fairgrad.config.schema import Config, from_stored
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.validation import check_integer

if TYPE_CHECKING:
    from mtrl_fairgrad.api.policy import Policy


class Run:
    """A run, given the folder that it wrote: `Run("runs/mine")`.

    Args:
        path: run folder.

    Raises:
        RunFolderError: the folder holds no run, or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = RunFolder.open(path)

    def __repr__(self) -> str:
        """Return how the run is opened again."""
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @cached_property
    def config(self) -> Config:
        """The configuration that it was trained with.

        Raises:
            ConfigError: it names a method or network that is not registered in this program.
        """
        return from_stored(self._folder.config, self.path / "config.yaml")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks."""
        return tuple(self.config.env.tasks or ())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its seeds."""
        return tuple(self.config.seeds)

    @property
    def evaluations(self) -> Table:
        """A row for each evaluation, seed and task, read anew from the folder.

        Columns are `env_steps`, `seed`, `task`, `episodes`, `success` (the rate of successful
        episodes), `return` and `return_until_success` (means; NaN where unknown).
        """
        rows = self._folder.evaluations()
        return Table(
            {
                "env_steps": np.array([row.env_steps for row in rows], np.int64),
                "seed": np.array([row.seed for row in rows], np.int64),
                "task": np.array([row.task for row in rows], np.str_),
                "episodes": np.array([row.episodes for row in rows], np.int64),
                "success": np.array([row.success for row in rows], np.float64),
                "return": np.array([row.return_ for row in rows], np.float64),
                "return_until_success": np.array(
                    [row.return_until_success for row in rows], np.float64
                ),
            }
        )

    @property
    def success(self) -> float:
        """Success rate in the last evaluation, mean over seeds and tasks; NaN before the first."""
        table = self.evaluations
        last = table["success"][table["env_steps"] == max(table["env_steps"], default=0)]
        return float(last.mean()) if len(last) else float("nan")

    @property
    def policies(self) -> dict[int, Policy]:
        """The policy of each seed in the newest checkpoint.

        Raises:
            RunFolderError: there is no intact checkpoint.
        """
        from mtrl_fairgrad.api.policy import policies_of

        return policies_of(self.path)

    def export(self, directory: str | Path | None = None, goals: int | None = None) -> list[Path]:
        """Write each seed's policy as a program that runs without this project.

        Every goal of every task is played before, since the files tell how good a policy is.

        Args:
            directory: where to write; by default `policies` in the run folder.
            goals: number of goals of each task to play; None for all.

        Returns:
            the `.json` of each policy; its `.pt2` is next to it.

        Raises:
            ConfigError: a task has not that many goals, or the files cannot be written.
            RunFolderError: there is no intact checkpoint.
        """
        from mtrl_fairgrad.evaluation.runner import EvaluationOptions, run_evaluation

        if goals is not None:
            check_integer("goals", goals, at_least=1)
        target = self.path / "policies" if directory is None else Path(directory)
        workers = self.config.eval.workers
        run_evaluation(EvaluationOptions(self.path, goals=goals, workers=workers, export=target))
        saved = self._folder.load_checkpoint(groups=()).env_steps
        return [target / f"policy-{saved}-seed{seed}.json" for seed in self.seeds]

    def report(self, **files: Any) -> Path:
        """Print the tables of the report and write its files; returns the folder of report.csv.

        Args:
            files: `html`, `latex`, `markdown`: files for the report in these formats; `figures`: a
                folder; `out`, `until`: see `mtrl_fairgrad.report`.

        Raises:
            ConfigError: `until` is no integer of at least 0.
            RunFolderError: there is no evaluation.
        """
        from mtrl_fairgrad.report import report

        paths = {key: Path(value) for key, value in files.items() if key != "until"}
        return report([self.path], **paths, until=files.get("until"))

    def resume(self, *overrides: str, callbacks: Sequence[object] = (), **options: Any) -> Run:
        """Continue from the last checkpoint, for example to more steps: `run.resume(steps=2e6)`.

        Arguments and errors are those of `mtrl_fairgrad.train`.
        """
        from mtrl_fairgrad.api.training import train

        return train(*overrides, callbacks=callbacks, resume=self.path, **options)
