"""Run a command's body with the configuration that Hydra composes, and report errors in one line."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.cli.multirun import Sweep, Task, in_sweep
from mtrl_fairgrad.cli.override_filter import sift
from mtrl_fairgrad.config.groups import config_dir, config_group, unwritten_methods
from mtrl_fairgrad.config.schema import Config, to_dict
from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.validation import ConfigError

MULTIRUN = ("-m", "--multirun")

PLUGINS = {"joblib": "sweep", "submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
"""Launchers of Hydra plugins, which ours under configs/ build on, and the extra each comes with."""


@dataclass(frozen=True)
class Command:
    """What tells one command line from another."""

    module: str
    root: str
    """The composed file of configs/, without its ending."""
    schema: Callable[[], Any]
    """Makes the typed configuration with its defaults; empty where the files of a group say what
    its keys are.
    """


TRAIN = Command("mtrl_fairgrad.train", "config", partial(Config, method={}))


class Job:
    """What Hydra calls for each configuration: the task, its mistakes kept, since Hydra would add a
    page to each.

    A launcher sends copies to other processes; what those learn comes back through the sweep.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.sweep = task, Sweep()
        self.started, self.code = False, 0
        self.mistake: ValueError | None = None

    def __call__(self, composed: DictConfig) -> None:
        """Do the task."""
        self.started = True
        if in_sweep():
            self.sweep.carry_out(self.task, composed)
            return
        try:
            self.code = self.task(composed) or 0
        except (ConfigError, RunFolderError) as error:
            self.mistake = error


def run_with_hydra(task: Task, arguments: list[str], command: Command = TRAIN) -> int:
    """Compose the configuration, or with --multirun several, and do `task`; a mistake is one
    sentence and code 2.

    Args:
        task: the job, a function that other processes can import; mistakes it finds are
            `ConfigError`s, anything else it raises passes through, except in a sweep. May return an
            exit code.
        arguments: Hydra's command line.
        command: whose it is.

    Returns:
        The exit code: 0, 2, or the task's; in a sweep that of the runs that failed, or 1 if they
            differ.
    """
    import hydra

    try:
        arguments = sift(arguments)
    except ConfigError as error:
        return fail(error)
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # makes Hydra raise its errors instead of printing a page and leaving
    )
    _offer_methods()
    launcher = next((word for word in arguments if word.startswith("hydra/launcher=")), None)
    if launcher is not None and not {*MULTIRUN, "hydra.mode=MULTIRUN"} & set(arguments):
        return fail(f"{launcher} is for sweeps: add --multirun, or drop it.")
    sys.argv = [sys.argv[0], *arguments]
    job = Job(task)
    try:
        job.sweep.see_through(
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command.root)(
                job
            )
        )
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if job.started:
            raise
        return fail(_explain(error, arguments, command))
    if job.sweep.begun:
        return job.sweep.close()
    return job.code if job.mistake is None else fail(job.mistake)


def _offer_methods() -> None:
    """Let `method=NAME` choose a registered method that has no YAML file, with its defaults."""
    for name, keys in unwritten_methods().items():
        ConfigStore.instance().store(name, keys, group="method")


def _explain(error: Exception, arguments: list[str], command: Command) -> str:
    """One sentence for a mistake that Hydra found while composing."""
    plugin = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", str(error))
    if plugin and plugin[1] in PLUGINS:
        return f'Hydra\'s launcher {plugin[1]} is not installed: pip install "mtrl-fairgrad[{PLUGINS[plugin[1]]}]".'
    if str(error).startswith("Ambiguous value for argument"):
        return f"{str(error).partition(chr(39))[2].partition(chr(39))[0]} names several runs: add --multirun to do all."
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={value} is unknown; allowed: {', '.join(error.options)}{_closest(value, error.options)}."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: write key=value, lists as [a,b], and quote what the shell would eat."
    if isinstance(error, ConfigCompositionException):
        known = sorted(_keys(to_dict(command.schema())))
        for argument in arguments:
            key = argument.partition("=")[0].lstrip("+~")
            if f"'{key}'" in str(error) or key == getattr(error.__cause__, "full_key", None):
                return f"{key} is no option here{_closest(key, known)}; python -m {command.module} --help lists all."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0].rstrip('.')}; python -m {command.module} --help lists what is allowed."


def _closest(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            for each in [value] if value else config_group(key).values():
                yield from _keys(each, f"{prefix}{key}.")
