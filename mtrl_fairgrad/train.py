"""Train an agent: `python -m mtrl_fairgrad.train env=mt10 alpha=2`.

`resume=FOLDER` resumes a run, `--multirun` runs a sweep, `--help` lists all options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from omegaconf import DictConfig

from mtrl_fairgrad.cli.hydra_main import given_overrides, run_with_hydra
from mtrl_fairgrad.cli.multirun import assign_run_folder
from mtrl_fairgrad.cli.override_filter import check_storable, check_stored, path_value
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.older_runs import REMOVED
from mtrl_fairgrad.config.schema import Config, check_parts, keep_stored_options, without_torch
from mtrl_fairgrad.runs.run_dir import REPORT, RunFolder
from mtrl_fairgrad.training.auto_resume import AUTO, resolve_auto_resume
from mtrl_fairgrad.training.log_backends import check_loggers
from mtrl_fairgrad.training.resume_command import resume_command
from mtrl_fairgrad.training.run_setup import check_folder, open_folder
from mtrl_fairgrad.utils.arguments import command_line, fail, fail_with_traceback
from mtrl_fairgrad.utils.atomic_io import remedy
from mtrl_fairgrad.utils.entry_point import entry_point, interrupted, output_failed, output_fault
from mtrl_fairgrad.utils.safe_files import is_present
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:
    from mtrl_fairgrad.api.run import Run

LOCATION_KEYS = ("run_dir", "resume")
"""Overrides that locate a run; they are not restored when it is resumed."""


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        exit code: 0, 1 after a fault, 2 after a user error, 128 + signal after a stop.
    """
    try:
        arguments = with_stored_overrides(sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        return fail(error)
    return run_with_hydra(job, arguments)


def with_stored_overrides(given: list[str]) -> list[str]:
    """With `resume=FOLDER`, put the run's stored overrides and steps before `given`."""
    resumed = [path_value(word) for word in given if word.startswith("resume=")]
    if not resumed or resumed[-1] in ("", "None", AUTO):
        return given
    folder = RunFolder.open(Path(resumed[-1]))
    stored = [word for word in folder.manifest.get("overrides", []) if not _is_dropped(word)]
    try:
        check_stored(stored)
    except ConfigError as error:
        raise ConfigError(f"resume={folder.path}: {error}") from None
    return [*stored, f"steps={folder.steps}", *given]


def _is_dropped(word: str) -> bool:
    """Whether a stored override is not restored: where the run was, or an option that is gone."""
    return word.partition("=")[0].lstrip("+") in (*LOCATION_KEYS, *REMOVED)


def job(composed: DictConfig) -> int:
    """Train one composed configuration, in this process or in one started by a launcher."""
    overrides = given_overrides()
    config = without_torch(composed, overrides)
    assign_run_folder(config, overrides)
    return start(config, overrides)


def start(config: Config, overrides: list[str]) -> int:
    """Check a configuration and train it; returns the exit code; errors as of `prepare`."""
    folder, unfinished = prepare(config, overrides)
    if not unfinished:
        return leave_finished(folder, config.steps)
    return run_training(config, folder, overrides)


def prepare(config: Config, overrides: list[str]) -> tuple[RunFolder, bool]:
    """Check a configuration, set up this process for it, and make or open its folder.

    Args:
        config: as composed; `resume` and what a resumed run keeps are changed in place.
        overrides: the command line that it was composed from, stored overrides included.

    Returns:
        the folder, and whether there is something to train, which a run resumed by `auto` may lack.

    Raises:
        ConfigError: a mistake in the configuration, detected before anything is created.
        RunFolderError: the folder cannot be made or read.
    """
    config.env.tasks = list(task_names(config.env))
    check_storable([word for word in overrides if not _is_dropped(word)])
    auto_resume = resolve_auto_resume(config)
    if config.resume is not None:
        keep_stored_options(config, RunFolder.open(Path(config.resume)).config, overrides)
    if not check_folder(config, auto_resume, overrides):
        return RunFolder.open(Path(str(config.resume))), False
    check_loggers(config.logger)
    check_parts(config)  # imports torch, as does everything from here on
    from mtrl_fairgrad.training.execution import configure_torch
    from mtrl_fairgrad.training.memory import check_memory
    from mtrl_fairgrad.utils.device import resolve_device

    device = resolve_device(config.device)
    check_memory(config, device)
    configure_torch(config, device)
    return open_folder(config, overrides, str(device)), True


def leave_finished(folder: RunFolder, steps: int) -> int:
    """Say that a run is finished, and write its report if it is missing; returns the exit code.

    A folder without checkpoints is left as it is: it may be published.
    """
    finished = f"nothing is left to do: the run in {folder.path} is finished at env_steps {steps}"
    if not folder.has_checkpoint():
        print(f"{finished}; it has no checkpoints to go on from: {folder.without_checkpoint()}")
        return 0
    print(finished)
    return 0 if is_present(folder.path / REPORT) else finish(folder)


def run_training(config: Config, folder: RunFolder, overrides: list[str]) -> int:
    """Train in an open folder and write the report; returns the exit code.

    Wherever training ends early, the command that resumes it is printed.
    """
    from mtrl_fairgrad.envs.workers.pool import WorkerError
    from mtrl_fairgrad.training.session import fault_message, train_in
    from mtrl_fairgrad.utils.faults import TrainingFault

    command = resume_command(folder, config.steps, overrides)
    resume = f"resume with: {command}"
    begun = config.resume is not None

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        stop = train_in(folder, config, begin=begin)
    except BrokenPipeError:  # whoever read the output went away
        print(resume, file=sys.stderr)
        raise
    except (OSError, TrainingFault, WorkerError) as fault:
        if isinstance(fault, OSError) and (broken := output_fault(fault)):
            return output_failed(broken, resume if begun else "")
        message = fault_message(fault, folder)
        code = fail_with_traceback(message)
        if begun and command not in message:
            print(resume, file=sys.stderr)
        return code
    except KeyboardInterrupt:
        if begun:
            return interrupted(f"stopped at once; {resume}")
        folder.discard()
        raise
    code = stop.exit_code or finish(folder)
    if stop.requested:
        print(resume)
    stop.reraise()
    return code


def finish(folder: RunFolder) -> int:
    """Write the report of a finished run and print the run folder; returns the exit code."""
    from mtrl_fairgrad.report import report

    again = f"repeat it with: {command_line('report', folder.path)}"
    failed = "the run is finished, but its report could not be made"
    try:
        report([folder.path])
        print(f"run folder: {folder.path}", flush=True)
    except KeyboardInterrupt:
        return interrupted(f"stopped in the report of a finished run; {again}")
    except BrokenPipeError:
        raise
    except OSError as error:
        if broken := output_fault(error):
            return output_failed(broken, f"the run in {folder.path} is finished")
        raise
    except ValueError as error:  # not a mistake of the user, as this command made the run
        if isinstance(cause := error.__cause__, OSError):
            return fail(f"{failed} ({cause.strerror}): {remedy(cause)}, and {again}", code=1)
        return fail(f"{failed} ({str(error).rstrip('.')}): {again}", code=1)
    return 0


class CallableModule(ModuleType):
    """A module that is also a function: `mtrl_fairgrad.train(...)` in Python programs."""

    main: Callable[..., int]
    start: Callable[[Config, list[str]], int]
    finish: Callable[[RunFolder], int]
    check_parts: Callable[[Config], None]

    def __call__(
        self, *overrides: str | Config, callbacks: Sequence[object] = (), **options: Any
    ) -> Run:
        """Train in this process, see `mtrl_fairgrad.api.training.train`."""
        from mtrl_fairgrad.api.training import train

        return train(*overrides, callbacks=callbacks, **options)


if __name__ == "__main__":
    # Imported by name, so that processes of launchers can unpickle the functions of this file.
    from mtrl_fairgrad.train import main as main_by_name

    sys.exit(main_by_name())

sys.modules[__name__].__class__ = CallableModule
