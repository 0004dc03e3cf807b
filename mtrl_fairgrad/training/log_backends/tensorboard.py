"""`logger=tensorboard`: event files in the run folder."""

from __future__ import annotations

from pathlib import Path

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.tensorboard_writer import EventFile
from mtrl_fairgrad.training.run_description import (
    COMPARED,
    configuration_text,
    hyper_parameters,
    seed_charts,
)


class TensorBoardLog:
    """Scalars, the configuration, hyper-parameters, and charts of several seeds.

    Args:
        folder: the run folder.
        purge_step: TensorBoard hides what older files have from this step on.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self._events = EventFile(folder, purge_step)

    def describe(self, config: Config, env_steps: int) -> None:
        """Write configuration, hyper-parameters and charts."""
        self._events.add_text("configuration", configuration_text(config, env_steps), env_steps)
        self._events.add_hyper_parameters(hyper_parameters(config), COMPARED, env_steps)
        if len(config.seeds) > 1:
            self._events.add_charts(seed_charts(config.seeds), env_steps)

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value; OSError when a due write fails."""
        self._events.add_scalar(name, value, env_steps)

    def flush(self) -> None:
        """Write all entries durably."""
        self._events.flush()

    def close(self) -> None:
        """Write the remaining entries."""
        self._events.close()
