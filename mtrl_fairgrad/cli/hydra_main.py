"""Run a command with a configuration composed by Hydra; errors are reported in one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.cli.advice import dotted_keys, explain, refused_option
from mtrl_fairgrad.cli.multirun import OutputClosed, Sweep, Task, is_multirun
from mtrl_fairgrad.cli.override_filter import filter_overrides, quote_paths
from mtrl_fairgrad.cli.sweep_cores import count_runs
from mtrl_fairgrad.config import option_docs as option_docs  # registers a resolver for --help
from mtrl_fairgrad.config.groups import config_dir, method_keys, methods_without_file
from mtrl_fairgrad.config.schema import Config, to_dict
from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.validation import ConfigError

MULTIRUN_FLAGS = ("-m", "--multirun", "hydra.mode=MULTIRUN")


@dataclass(frozen=True)
class Command:
    """A command line with a composed configuration."""

    module: str
    """Module that `python -m` runs."""
    root: str
    """Primary file of configs/, without `.yaml`."""
    schema: Callable[[], Any]
    """Make the typed defaults; a group whose keys depend on the choice is an empty dictionary."""


TRAIN = Command("mtrl_fairgrad.train", "config", partial(Config, method={}))


class Job:
    """The function that Hydra calls with each composed configuration.

    It stores a `ConfigError` instead of raising it, since Hydra would print a long traceback. A
    launcher pickles the job for other processes, whose results are returned through `Sweep`.
    """

    def __init__(self, task: Task, runs: int) -> None:
        self.task = task
        self.sweep = Sweep(runs)
        self.started = False
        self.exit_code = 0
        self.error: ValueError | None = None

    def __call__(self, composed: DictConfig) -> None:
        """Run the task once."""
        self.started = True
        if is_multirun():
            self.sweep.run_one(self.task, composed)
            return
        try:
            self.exit_code = self.task(composed) or 0
        except (ConfigError, RunFolderError) as error:
            self.error = error
        except BrokenPipeError:
            raise OutputClosed from None


def run_with_hydra(task: Task, arguments: list[str], command: Command = TRAIN) -> int:
    """Compose one configuration, or several with --multirun, and call `task` with each.

    Args:
        task: importable by other processes. Its `ConfigError`s are reported in one sentence; other
            exceptions propagate, except in a multirun. It may return an exit code.
        arguments: the command line without the program's name.
        command: the command to run.

    Returns:
        exit code: 2 after a `ConfigError`, else the task's. After a multirun: 0, or the code of the
        runs that failed, or 1 if their codes differ.
    """
    import hydra

    try:
        arguments = filter_overrides(quote_paths(arguments))
    except ConfigError as error:
        return fail(error)
    launcher = next((word for word in arguments if word.startswith("hydra/launcher=")), None)
    if launcher is not None and not set(MULTIRUN_FLAGS) & set(arguments):
        return fail(f"{launcher} is for sweeps: add --multirun, or drop it.")
    _store_methods_without_file(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors instead of printing them and exiting
    logging.raiseExceptions = False  # no traceback of Hydra's log after the output was closed
    job = Job(task, count_runs(arguments))
    main = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command.root)(
        job
    )
    try:
        with _command_line(arguments):
            job.sweep.run(main)
    except OutputClosed:
        raise BrokenPipeError from None
    except RunFolderError as error:  # a link in the sweep's folder
        return fail(error)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if job.started:
            raise
        known = sorted(dotted_keys(to_dict(command.schema())))
        return fail(explain(error, arguments, known, command.module, command.root))
    if job.sweep.started:
        return job.sweep.close()
    return job.exit_code if job.error is None else fail(job.error)


def compose_config(arguments: Sequence[str], command: Command = TRAIN) -> DictConfig:
    """Compose one configuration without running anything, as `run_with_hydra` would.

    Args:
        arguments: overrides, without flags.
        command: the command whose options they are.

    Raises:
        ConfigError: a mistake that the command line would report, or a word that is for it alone.
    """
    import hydra

    words = filter_overrides(quote_paths(arguments))
    for word in words:
        if word.startswith(("-", "hydra")):
            raise ConfigError(
                f"{word} is for the command line: drop it, or run python -m {command.module}.",
                word.partition("=")[0],
                word,
            )
    _store_methods_without_file(words)
    try:
        with _own_hydra(), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose(command.root, overrides=words)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        known = sorted(dotted_keys(to_dict(command.schema())))
        text = explain(error, words, known, command.module, command.root)
        raise ConfigError(text, *refused_option(error, words)) from None


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Put Hydra's state aside, in case the program that composes is a Hydra application itself."""
    state = GlobalHydra.instance()
    before, state.hydra = state.hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def given_overrides() -> list[str]:
    """Return the overrides of the job that Hydra runs.

    Raises:
        ConfigError: one refers to an option that does not exist.
    """
    try:
        return list(HydraConfig.get().overrides.task)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"an override cannot be resolved ({reason}): write \\${{ where no option is meant."
        ) from None


@contextlib.contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Set `sys.argv`, the only place from which Hydra's decorator takes arguments."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _store_methods_without_file(arguments: Sequence[str]) -> None:
    """Make methods of other packages available as `method=NAME`.

    An entry point is imported only if it is chosen, to make its options known to Hydra.
    """
    chosen = {
        name
        for argument in arguments
        if argument.startswith("method=")
        for name in argument.partition("=")[2].split(",")
    }
    for name, keys in methods_without_file().items():
        node = method_keys(name) if name in chosen else keys
        ConfigStore.instance().store(name, node, group="method")
