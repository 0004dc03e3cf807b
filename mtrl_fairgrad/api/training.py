"""`mtrl_fairgrad.train(...)`: train in this process and return the run."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from mtrl_fairgrad.api.overrides import config_overrides, to_overrides
from mtrl_fairgrad.api.run import Run
from mtrl_fairgrad.cli.hydra_main import compose_config
from mtrl_fairgrad.config.schema import Config, without_torch
from mtrl_fairgrad.runs.base_run_dir import CONFIG
from mtrl_fairgrad.runs.run_dir import REPORT, RunFolder
from mtrl_fairgrad.train import prepare, with_stored_overrides
from mtrl_fairgrad.training.callbacks import CallbackError, Callbacks
from mtrl_fairgrad.utils.safe_files import is_present
from mtrl_fairgrad.utils.validation import ConfigError


def train(*overrides: str | Config, callbacks: Sequence[object] = (), **options: Any) -> Run:
    """Train a run, or resume one with `resume=FOLDER`, in this process.

    It does what `python -m mtrl_fairgrad.train` does with the same options, and leaves the same
    run folder, report included.

        run = train("env=mt10", alpha=2, steps=100_000)
        run = train(env={"name": "mt10", "copies": 8}, method="cagrad", seeds=[0, 1])
        run = train(Config(env=EnvConfig(horizon=200)), run_dir="runs/mine")

    Args:
        overrides: words as on the command line, or a `Config` as the first one.
        callbacks: objects with some of the methods `on_step`, `on_update`, `on_evaluation` and
            `on_checkpoint`, see `mtrl_fairgrad.training.callbacks`.
        options: the same options as keywords; a mapping holds options of a group.

    Returns:
        the finished run.

    Raises:
        ConfigError: a mistake in the configuration, detected before anything is created.
        RunFolderError: the folder cannot be made or read.
        TrainingFault: no seed can be trained any further, or a file of the run cannot be written.
        WorkerError: a simulator raised an error, or may not be replaced.
        KeyboardInterrupt: after Ctrl-C, when the run has a checkpoint; the second one stops at
            once. Another signal that ends the run ends the process after the checkpoint.
    """
    from mtrl_fairgrad.training.execution import settings_restored

    Callbacks(callbacks)  # refused before anything is created
    words = with_stored_overrides([*_words(overrides), *to_overrides(options)])
    config = without_torch(compose_config(words), words)
    with settings_restored():
        folder, unfinished = prepare(config, words)
        if unfinished:
            _train_in(folder, config, callbacks)
    run = Run(folder.path)
    if unfinished or (folder.has_checkpoint() and not is_present(folder.path / REPORT)):
        run.report()
    return run


def _words(overrides: Sequence[object]) -> list[str]:
    words: list[str] = []
    for each in overrides:
        if not isinstance(each, (str, Config)):
            raise ConfigError(
                f"overrides={each!r} is not allowed: give words such as 'env=mt10', a Config, or "
                "keywords.",
                "overrides",
                each,
            )
        words += config_overrides(each) if isinstance(each, Config) else [each]
    return words


def _train_in(folder: RunFolder, config: Config, callbacks: Sequence[object]) -> None:
    """Train; errors say how to resume the run."""
    from mtrl_fairgrad.training.session import fault_message, train_in
    from mtrl_fairgrad.utils.faults import TrainingFault

    resume = f"resume the run with mtrl_fairgrad.train(resume={str(folder.path)!r})"
    try:
        stop = train_in(folder, config, callbacks)
    except CallbackError as raised:
        raised.error.add_note(resume)
        raise raised.error from raised.error.__cause__
    except OSError as fault:
        error = TrainingFault(fault_message(fault, folder))
        error.add_note(resume)
        raise error from fault
    except Exception as error:
        if is_present(folder.path / CONFIG):  # that of a run that could not begin is removed
            error.add_note(resume)
        raise
    stop.reraise()
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt(f"stopped with a checkpoint: {resume}")
    if stop.requested:
        raise SystemExit(stop.exit_code)
