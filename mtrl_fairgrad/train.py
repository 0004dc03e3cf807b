"""Train: `python -m mtrl_fairgrad.train env=mt10 alpha=2`.

Continue a run with `resume=FOLDER`, do many with `--multirun`, list everything with `--help`.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtrl_fairgrad.cli.hydra_main import run_with_hydra
from mtrl_fairgrad.cli.multirun import place
from mtrl_fairgrad.cli.override_filter import stored_words
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import (
    RESUMABLE,
    Config,
    changed_keys,
    check_parts,
    to_dict,
    without_torch,
)
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.training.auto_resume import AUTO, finished, settle
from mtrl_fairgrad.training.signals import stopping
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:
    from mtrl_fairgrad.training.trainer import Trainer

_OF_THE_PLACE = ("run_dir", "resume")
"""Words that say where a run is, not what it does."""


def main(arguments: list[str] | None = None) -> int:
    """Compose the configuration, check it, open the run's folder and train; returns the exit code."""
    try:
        arguments = _with_stored_overrides(sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        return fail(error)
    return run_with_hydra(job, arguments)


def job(composed: DictConfig) -> int:
    """The run of one composed configuration, in this process or in one that a launcher started."""
    overrides = list(HydraConfig.get().overrides.task)
    config = without_torch(composed, overrides)
    place(config, overrides)
    return start(config, overrides)


def _with_stored_overrides(given: list[str]) -> list[str]:
    """When resuming, the command line the run was started with and how far it has been extended,
    then what is given.
    """
    resumed = [argument.partition("=")[2] for argument in given if argument.startswith("resume=")]
    if not resumed or resumed[-1] in ("", "null", AUTO):
        return given
    folder = RunFolder.open(Path(resumed[-1]))
    try:
        words = stored_words(folder.manifest.get("overrides", []))
    except ConfigError as error:
        raise ConfigError(f"resume={folder.path}: {error}") from None
    stored = [word for word in words if word.partition("=")[0] not in _OF_THE_PLACE]
    return [*stored, f"steps={folder.steps}", *given]


def start(config: Config, overrides: list[str]) -> int:
    """Train one configuration to its end; returns the exit code (0, 1 after a fault, 128 + signal
    after a stop).
    """
    config.env.tasks = list(task_names(config.env))
    settled = settle(config)
    check_folder(config)
    check_parts(config)  # from here on with PyTorch
    from mtrl_fairgrad.training.factory import check_memory
    from mtrl_fairgrad.utils.device import resolve_device

    device = resolve_device(config.device)
    check_memory(config, device)
    return begin(config, overrides, str(device), settled)


def begin(config: Config, overrides: list[str], device: str, settled: bool) -> int:
    """Train a configuration in which no mistake was found; `settled`: leave a run that is finished
    as it is.
    """
    import torch

    from mtrl_fairgrad.envs import WorkerError
    from mtrl_fairgrad.training.factory import remarks
    from mtrl_fairgrad.utils.faults import TrainingFault

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # asked for by PyTorch, before CUDA starts
    torch.use_deterministic_algorithms(config.deterministic)
    folder = open_folder(config, overrides, device)
    if settled and finished(folder, config.steps):
        print(
            f"nothing is left to do: the run in {folder.path} is finished at env_steps "
            f"{config.steps}"
        )
        if not (folder.path / "report.csv").is_file():
            finish(folder)
        return 0
    with folder.lock():
        try:
            with build(config, folder) as trainer, stopping(trainer) as stop:
                for remark in [*remarks(config), *trainer.envs.suite.remarks()]:
                    trainer.tracker.say(f"note: {remark}")
                try:
                    run(trainer)
                except RunFolderError as error:  # no mistake of the command line any more
                    raise TrainingFault(str(error)) from error
                trainer.evaluating.sum_up()
                trainer.watching.sum_up()
                code = 128 + trainer.stop_signal if trainer.stop_signal else 0
        except OSError as error:
            return fail(folder.store.refusal(str(error.filename or folder.path), error), code=1)
        except (TrainingFault, WorkerError) as fault:
            return fail(fault, code=1)
        except KeyboardInterrupt:
            print("stopped at once; the last checkpoint stands", file=sys.stderr)
            return 130
    if code == 0:
        finish(folder)
    stop.hand_on()
    return code


def build(config: Config, folder: RunFolder) -> Trainer:
    """The trainer of a run; a new run that cannot be started leaves no folder behind."""
    from mtrl_fairgrad.training.trainer import Trainer

    if config.resume is not None:
        if config.steps != folder.steps:
            folder.extend(config.steps)
        return Trainer(config, folder)
    try:
        return Trainer(config, folder)
    except BaseException:
        folder.discard()
        raise


def run(trainer: Trainer) -> None:
    """The whole story of a training run."""
    checkpoint_due = told = False
    while True:
        if trainer.stop_signal is None:
            checkpoint_due |= trainer.evaluate()
        done = trainer.env_steps >= trainer.config.steps
        stopping_now = trainer.stop_signal is not None
        if (checkpoint_due or stopping_now) and (trainer.envs.resumable or done):
            trainer.checkpoint()
            checkpoint_due = False
            if stopping_now:
                trainer.tracker.say(f"stopped at env_steps {trainer.env_steps}, with a checkpoint")
                return
        if done:
            return
        if stopping_now and not told:
            trainer.tracker.say(
                "stopping at the next common episode boundary; asking again leaves at once"
            )
            told = True
        if trainer.out_of_grace:
            trainer.tracker.say(
                "stopped before the next common episode boundary; the last checkpoint stands"
            )
            return
        trainer.step()


def check_folder(config: Config) -> None:
    """Refuse a run that cannot be made where it is to be, or with `resume` one whose configuration
    would change.

    Raises:
        ConfigError: a changed configuration; anything `RunFolder` refuses.
    """
    if config.resume is None:
        return RunFolder.check_vacant(_path(config))
    folder = RunFolder.open(Path(config.resume))
    changes = [
        f"{key} ({old} before, {new} now)"
        for key, old, new in changed_keys(folder.config, to_dict(config))
        if key not in RESUMABLE | {"run_dir"}
    ]
    if changes:
        raise _changing(config, "; ".join(changes))


def open_folder(config: Config, overrides: list[str], device: str) -> RunFolder:
    """The run's folder: a new one, or with `resume` the old one; `check_folder` found nothing
    against it.

    Raises:
        ConfigError: another device than before; anything `RunFolder` refuses.
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
        return RunFolder.create(_path(config), to_dict(config), record)
    folder = RunFolder.open(Path(config.resume))
    before = str(folder.manifest.get("device", device))
    if before.partition(":")[0] != device.partition(":")[0]:
        raise _changing(config, f"the device ({before} before, {device} now)")
    return folder


def _path(config: Config) -> Path:
    """The folder of a new run."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(config.run_dir or f"runs/{config.env.name}-{config.method['name']}-{stamp}")


def _changing(config: Config, changes: str) -> ConfigError:
    return ConfigError(
        f"resume={config.resume} would change {changes}: leave those as they were, or start a new "
        "run "
        f"(only {', '.join(sorted(RESUMABLE - {'resume'}))} may differ)."
    )


def finish(folder: RunFolder) -> None:
    """Write the report of a finished run and say where everything is."""
    from mtrl_fairgrad.report import report

    report([folder.path])
    print(f"run folder: {folder.path}")


if __name__ == "__main__":
    from mtrl_fairgrad import (
        train,  # by that name, a launcher's processes find the functions of this file
    )

    sys.exit(train.main())
