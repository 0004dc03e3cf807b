"""`logger=mlflow`: a run of MLflow, in the experiment MLFLOW_EXPERIMENT_NAME or `mtrl-fairgrad`.

MLFLOW_TRACKING_URI says where, by default in files of the current folder. A resumed run continues
its curves. The program's own active MLflow run is left alone.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from mtrl_fairgrad.config.schema import Config, flatten, to_dict
from mtrl_fairgrad.runs.manifest import run_id

TAG = "mtrl_fairgrad.run"
"""Tag by which a resumed run is found."""
LARGEST_BATCH = 500
"""Entries that are sent at once; MLflow takes 1,000."""
PARAMETERS = 100
"""Parameters that MLflow takes at once."""
LONGEST = 500
"""Characters of a parameter."""


class MlflowLog:
    """Metrics with `env_steps` as their step, and the configuration as parameters.

    Args:
        folder: the run folder, whose name the run gets.
    """

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client: Any = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "mtrl-fairgrad"))
        own = run_id(folder)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{own}'", max_results=1)
        self._resumed = bool(found)
        if found:
            self._run: str = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            made = self._client.create_run(experiment, tags={TAG: own}, run_name=folder.name)
            self._run = made.info.run_id
        self._pending: list[Any] = []
        self._sent = dict[str, set[int]]()
        """By name, the steps whose values a resumed run finds, which it would repeat."""

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made if it does not exist."""
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def describe(self, config: Config, env_steps: int) -> None:
        """Send the configuration; MLflow refuses to change that of a resumed run."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        if self._resumed:
            return
        options = [
            Param(_allowed(key), str(value)[:LONGEST])
            for key, value in flatten(to_dict(config)).items()
        ]
        for start in range(0, len(options), PARAMETERS):
            self._client.log_batch(self._run, params=options[start : start + PARAMETERS])

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value, unless the service has it from before the run was resumed."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        key = _allowed(name)
        if self._resumed and key not in self._sent:
            history = self._client.get_metric_history(self._run, key)
            self._sent[key] = {metric.step for metric in history}
        if env_steps in self._sent.get(key, ()):
            return
        self._pending.append(Metric(key, float(value), int(1000 * time.time()), env_steps))
        if len(self._pending) >= LARGEST_BATCH:
            self.flush()

    def flush(self) -> None:
        """Send everything that was added."""
        pending, self._pending = self._pending, []
        if pending:
            self._client.log_batch(self._run, metrics=pending)

    def close(self) -> None:
        """Send the rest and end the run."""
        self.flush()
        self._client.set_terminated(self._run)


def _allowed(name: str) -> str:
    """Return a name with the characters that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)
