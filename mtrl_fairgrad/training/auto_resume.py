"""What `resume=auto` means for a folder: begin there, go on there, or leave it because it is
finished.
"""

from __future__ import annotations

from pathlib import Path

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import RunFolder

AUTO = "auto"


def settle(config: Config) -> bool:
    """Replace `resume=auto` by the folder to go on in, or by null for a new run; returns whether it
    was auto.

    Raises:
        ConfigError: no folder is named, or its run has been asked for more steps than now.
    """
    if config.resume != AUTO:
        return False
    if config.run_dir is None:
        raise ConfigError(
            "resume=auto goes on in a folder that is known before: give run_dir=FOLDER, too."
        )
    path = Path(config.run_dir)
    if not (path / "config.yaml").is_file():
        RunFolder.clear_unfinished(path)
        config.resume = None
        return True
    asked = RunFolder.open(path).steps
    if config.steps < asked:
        raise ConfigError(
            f"the run in {path} goes to steps={asked}, but steps={config.steps} was given: give at "
            "least as many, or another run_dir."
        )
    config.resume = config.run_dir
    return True


def finished(folder: RunFolder, steps: int) -> bool:
    """Whether the run has a checkpoint at `steps` or beyond, and its last evaluation, which a stop
    may have cut off.
    """
    return any(steps_of(path) >= steps for path in folder.checkpoints()) and any(
        row.env_steps >= steps for row in folder.evaluations()
    )
