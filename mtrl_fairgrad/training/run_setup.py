"""Check and open the folder of a new or resumed run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.older_runs import complete
from mtrl_fairgrad.config.schema import (
    RESUMABLE,
    Config,
    ConfigError,
    changed_keys,
    is_given,
    to_dict,
)
from mtrl_fairgrad.runs.base_run_dir import check_description
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.auto_resume import is_finished


def check_folder(config: Config, auto_resume: bool = False, overrides: Sequence[str] = ()) -> bool:
    """Check that a new run's folder can be made, or that the run to resume can be continued.

    Changes nothing and does not import torch.

    Args:
        config: with `resume` resolved.
        auto_resume: whether a finished run is left as it is.
        overrides: the command line.

    Returns:
        whether there is something to train; False only with `auto_resume`.

    Raises:
        ConfigError: options that contradict the folder.
        RunFolderError: the folder cannot be made or read, or resuming would delete results.
    """
    if config.resume is None:
        check_description(RunFolder.kind, to_dict(config))
        RunFolder.check_vacant(new_run_path(config))
        return True
    folder = RunFolder.open(Path(config.resume))
    _check_same_folder(config, overrides)
    changes = [
        f"{key} ({old} before, {new} now)"
        for key, old, new in changed_keys(complete(folder.config), to_dict(config))
        if key not in RESUMABLE | {"run_dir"}
    ]
    if changes:
        raise _changed_error(config, "; ".join(changes))
    _check_length(folder, config.steps)
    if auto_resume and is_finished(folder, config.steps):
        return False
    if folder.has_checkpoint():
        folder.store.check_any_complete()
    else:
        folder.check_start_over()
    return True


def _check_same_folder(config: Config, overrides: Sequence[str]) -> None:
    """Check that `run_dir`, if it is given, is the folder to resume."""
    if not is_given("run_dir", overrides) or config.run_dir is None or config.resume is None:
        return
    if Path(config.run_dir).resolve() != Path(config.resume).resolve():
        raise ConfigError(
            f"run_dir={config.run_dir} has no effect with resume={config.resume}, which continues "
            "a run in its own folder: drop it, or copy the folder first and resume the copy.",
            "run_dir",
            config.run_dir,
        )


def _check_length(folder: RunFolder, steps: int) -> None:
    """Check that a resumed run does not become shorter than what it has done.

    Evaluations before the end play fewer goals than the last one, so a run cannot end at one of
    them either.

    Raises:
        ConfigError: `steps` is too small.
    """
    saved = max((steps_of(path) for path in folder.checkpoints()), default=0)
    evaluated = folder.last_evaluated or 0
    least = max(saved, evaluated + 1)
    if steps < min(least, folder.steps):
        raise ConfigError(
            f"steps={steps} is less than the run in {folder.path} has done, which is trained up to "
            f"env_steps {max(saved, evaluated)} and evaluated up to {evaluated}: give "
            f"steps={min(least, folder.steps)} or more, or leave it out to keep {folder.steps}.",
            "steps",
            steps,
        )


def open_folder(config: Config, overrides: list[str], device: str) -> RunFolder:
    """Make a new run's folder, or open the one to resume, after `check_folder` accepted it.

    Raises:
        ConfigError: the run would be resumed on another kind of device.
        RunFolderError: the folder cannot be made or read.
    """
    import torch

    from mtrl_fairgrad.training.execution import execution_of
    from mtrl_fairgrad.training.factory import make_suite, methods_by_network, protocol

    if config.resume is None:
        suite = make_suite(config, tuple(config.env.tasks or task_names(config.env)))
        record = {
            **manifest(overrides, device, protocol(config, suite)),
            "methods": methods_by_network(config),
            "execution": execution_of(config, torch.device(device)).record(),
            "steps": config.steps,
        }
        return RunFolder.create(new_run_path(config), to_dict(config), record)
    folder = RunFolder.open(Path(config.resume))
    before = str(folder.manifest.get("device", device))
    if before.partition(":")[0] != device.partition(":")[0]:
        raise _changed_error(config, f"the device ({before} before, {device} now)")
    return folder


def new_run_path(config: Config) -> Path:
    """Return `run_dir`, or a name made of task group, method and time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(config.run_dir or f"runs/{config.env.name}-{config.method['name']}-{stamp}")


def _changed_error(config: Config, changes: str) -> ConfigError:
    allowed = ", ".join(sorted(RESUMABLE - {"resume"}))
    return ConfigError(
        f"resume={config.resume} would change {changes}: keep these values, or start a new run "
        f"(only {allowed} may differ)."
    )
