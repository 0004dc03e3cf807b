"""`logger=wandb`: a run of Weights & Biases, in the project WANDB_PROJECT or `mtrl-fairgrad`.

The service's own environment variables apply, such as WANDB_MODE=offline, WANDB_ENTITY and
WANDB_DIR. A resumed run continues its curves under the same id; the steps between the checkpoint
and the interruption are then logged twice.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mtrl_fairgrad.config.schema import Config, to_dict
from mtrl_fairgrad.runs.manifest import run_id

STEP = "env_steps"


class WandbLog:
    """Scalars over `env_steps`, one entry for each step that has any.

    Args:
        folder: the run folder, whose name the run gets.
    """

    def __init__(self, folder: Path) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mtrl-fairgrad"),
            id=run_id(folder),
            name=folder.name,
            dir=os.environ.get("WANDB_DIR", str(folder)),
            resume="allow",
            reinit="create_new",  # a run that the program itself has begun goes on
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        self._step, self._row = 0, dict[str, float]()

    def describe(self, config: Config, env_steps: int) -> None:
        """Send the configuration."""
        self._run.config.update(to_dict(config), allow_val_change=True)

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value to the entry of its step."""
        if env_steps != self._step:
            self.flush()
        self._step, self._row[name] = env_steps, float(value)

    def flush(self) -> None:
        """Hand the entry over to the service's own process."""
        if self._row:
            self._run.log({STEP: self._step, **self._row})
            self._row = {}

    def close(self) -> None:
        """End the run, which waits until everything is sent."""
        self.flush()
        self._run.finish()
