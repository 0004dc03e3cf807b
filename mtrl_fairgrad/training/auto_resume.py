"""`resume=auto`: start the run in `run_dir`, resume it, or skip it if it is finished."""

from __future__ import annotations

from pathlib import Path

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.safe_files import is_present

AUTO = "auto"


def resolve_auto_resume(config: Config) -> bool:
    """Replace `resume=auto` by the folder to resume, or by None for a new run.

    Returns:
        whether `resume` was `auto`.

    Raises:
        ConfigError: `run_dir` is missing, or the run there was started with more steps.
    """
    if config.resume != AUTO:
        return False
    if config.run_dir is None:
        raise ConfigError("resume=auto needs the folder to resume: give also run_dir=FOLDER.")
    path = Path(config.run_dir)
    if not is_present(path / "config.yaml"):
        RunFolder.clear_unfinished(path)
        config.resume = None
        return True
    stored = RunFolder.open(path).steps
    if config.steps < stored:
        raise ConfigError(
            f"the run in {path} goes to steps={stored}, but steps={config.steps} was given: give "
            f"steps={stored} or more, or another run_dir.",
            "steps",
            config.steps,
        )
    config.resume = config.run_dir
    return True


def is_finished(folder: RunFolder, steps: int) -> bool:
    """Whether the run has an evaluation and, if there are any, a checkpoint at `steps` or beyond.

    A stop at the last step may have left only the checkpoint; the checkpoints of a finished run may
    have been deleted since.
    """
    saved = [steps_of(path) for path in folder.checkpoints()]
    return (folder.last_evaluated or 0) >= steps and max(saved, default=steps) >= steps
