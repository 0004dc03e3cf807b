"""Train an agent: `python -m mtrl_fairgrad.train env=mt10 alpha=2`.

`resume=FOLDER` resumes a run, `--multirun` runs a sweep, `--help` lists all options.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtrl_fairgrad.cli.hydra_main import run_with_hydra
from mtrl_fairgrad.cli.multirun import assign_run_folder
from mtrl_fairgrad.cli.override_filter import stored_overrides
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import Config, check_parts, keep_stored_options, without_torch
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.training.auto_resume import AUTO, is_finished, resolve_auto_resume
from mtrl_fairgrad.training.run_setup import check_folder, open_folder
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.validation import ConfigError

LOCATION_KEYS = ("run_dir", "resume")
"""Overrides that locate a run; they are not restored when it is resumed."""


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        exit code: 0, 1 after a fault, 2 after a user error, 128 + signal after a stop.
    """
    try:
        arguments = _with_stored_overrides(sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        return fail(error)
    return run_with_hydra(job, arguments)


def _with_stored_overrides(given: list[str]) -> list[str]:
    """With `resume=FOLDER`, put the run's stored overrides and steps before `given`."""
    resumed = [argument.partition("=")[2] for argument in given if argument.startswith("resume=")]
    if not resumed or resumed[-1] in ("", "null", AUTO):
        return given
    folder = RunFolder.open(Path(resumed[-1]))
    try:
        overrides = stored_overrides(folder.manifest.get("overrides", []))
    except ConfigError as error:
        raise ConfigError(f"resume={folder.path}: {error}") from None
    stored = [word for word in overrides if word.partition("=")[0] not in LOCATION_KEYS]
    return [*stored, f"steps={folder.steps}", *given]


def job(composed: DictConfig) -> int:
    """Train one composed configuration, in this process or in one started by a launcher."""
    overrides = list(HydraConfig.get().overrides.task)
    config = without_torch(composed, overrides)
    assign_run_folder(config, overrides)
    return start(config, overrides)


def start(config: Config, overrides: list[str]) -> int:
    """Check a configuration and train it; returns the exit code.

    Raises:
        ConfigError: a mistake in the configuration, detected before anything is created.
        RunFolderError: the folder cannot be made or read.
    """
    config.env.tasks = list(task_names(config.env))
    auto_resume = resolve_auto_resume(config)
    if config.resume is not None:
        keep_stored_options(config, RunFolder.open(Path(config.resume)).config, overrides)
    check_folder(config)
    check_parts(config)  # imports torch, as does everything from here on
    from mtrl_fairgrad.training.factory import check_memory
    from mtrl_fairgrad.utils.device import resolve_device

    device = resolve_device(config.device)
    check_memory(config, device)
    return begin(config, overrides, str(device), auto_resume)


def begin(config: Config, overrides: list[str], device: str, auto_resume: bool) -> int:
    """Open the run folder of a checked configuration and train; returns the exit code.

    Args:
        config: checked by `start`.
        overrides: the command line, for the manifest.
        device: device of the learner.
        auto_resume: whether a finished run is left as it is.
    """
    from mtrl_fairgrad.training.factory import configure_torch

    configure_torch(config)
    folder = open_folder(config, overrides, device)
    if auto_resume and is_finished(folder, config.steps):
        print(
            f"nothing is left to do: the run in {folder.path} "
            f"is finished at env_steps {config.steps}"
        )
        if not (folder.path / "report.csv").is_file():
            finish(folder)
        return 0
    return run_training(config, folder)


def run_training(config: Config, folder: RunFolder) -> int:
    """Train in an open folder and write the report; returns the exit code."""
    from mtrl_fairgrad.envs.workers.pool import WorkerError
    from mtrl_fairgrad.training import loop
    from mtrl_fairgrad.training.factory import make_trainer, startup_notes
    from mtrl_fairgrad.utils.faults import TrainingFault

    try:
        with (
            folder.lock(),
            make_trainer(config, folder) as trainer,
            trainer.stop.handle_signals(),
        ):
            for note in [*startup_notes(config), *trainer.envs.suite.warnings()]:
                trainer.logger.log(f"note: {note}")
            try:
                loop.run(trainer)
            except RunFolderError as error:  # a fault during training is not a user error
                raise TrainingFault(str(error)) from error
            trainer.evaluator.log_summary()
            trainer.fault_monitor.log_summary()
            code = trainer.stop.exit_code
    except BrokenPipeError:
        raise  # whoever read the output went away
    except OSError as error:
        return fail(folder.store.refusal(str(error.filename or folder.path), error), code=1)
    except (TrainingFault, WorkerError) as fault:
        return fail(fault, code=1)
    except KeyboardInterrupt:
        print("stopped at once; resume from the last checkpoint", file=sys.stderr)
        return 130
    if code == 0:
        finish(folder)
    trainer.stop.reraise()
    return code


def finish(folder: RunFolder) -> None:
    """Write the report of a finished run and print the run folder."""
    from mtrl_fairgrad.report import report

    report([folder.path])
    print(f"run folder: {folder.path}")


if __name__ == "__main__":
    # Imported by name, so that processes of launchers can unpickle the functions of this file.
    from mtrl_fairgrad import train

    sys.exit(train.main())
