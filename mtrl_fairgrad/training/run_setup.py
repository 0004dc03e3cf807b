"""Check and open the folder of a new or resumed run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.older_runs import complete
from mtrl_fairgrad.config.schema import RESUMABLE, Config, ConfigError, changed_keys, to_dict
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.runs.run_dir import RunFolder


def check_folder(config: Config) -> None:
    """Check that a new run's folder can be made, or that `resume` keeps the run's configuration.

    Does not import torch.

    Raises:
        ConfigError: keys of the configuration differ that must not.
        RunFolderError: the folder cannot be made or read.
    """
    if config.resume is None:
        return RunFolder.check_vacant(new_run_path(config))
    folder = RunFolder.open(Path(config.resume))
    changes = [
        f"{key} ({old} before, {new} now)"
        for key, old, new in changed_keys(complete(folder.config), to_dict(config))
        if key not in RESUMABLE | {"run_dir"}
    ]
    if changes:
        raise _changed_error(config, "; ".join(changes))


def open_folder(config: Config, overrides: list[str], device: str) -> RunFolder:
    """Make a new run's folder, or open the one to resume, after `check_folder` accepted it.

    Raises:
        ConfigError: the run would be resumed on another kind of device.
        RunFolderError: the folder cannot be made or read.
    """
    import torch

    from mtrl_fairgrad.training.factory import make_suite, methods_by_network, protocol

    if config.resume is None:
        suite = make_suite(config, tuple(config.env.tasks or task_names(config.env)))
        accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
        record = {
            **manifest(overrides, device, protocol(config, suite), accelerator),
            "methods": methods_by_network(config),
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
