"""Train in an open run folder, for the command and for Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.execution import execution_notes, fallbacks_as_notes
from mtrl_fairgrad.training.factory import make_trainer, startup_notes
from mtrl_fairgrad.training.signals import StopController
from mtrl_fairgrad.utils.faults import TrainingFault


def train_in(
    folder: RunFolder,
    config: Config,
    callbacks: Sequence[object] = (),
    begin: Callable[[], None] = lambda: None,
) -> StopController:
    """Train until the last step, or until a signal asks to stop.

    Args:
        folder: of the run, new or to be resumed.
        config: validated.
        callbacks: see `mtrl_fairgrad.training.callbacks`.
        begin: called when nothing can be refused any more, so that the run can be resumed.

    Returns:
        whether a signal has asked to stop, and which; the run is closed.

    Raises:
        ConfigError: tasks, memory or checkpoint do not allow this run, whose folder is removed if
            it is new.
        TrainingFault: no seed can be trained any further, or a file of the run cannot be written.
        WorkerError: a simulator raised an error, or may not be replaced.
        OSError: the system refused what training needs.
        CallbackError: a callback raised an exception.
    """
    with (
        folder.lock(),
        make_trainer(config, folder, callbacks) as trainer,
        trainer.stop.handle_signals(),
        fallbacks_as_notes(trainer.logger.log),
    ):
        begin()
        notes = startup_notes(config) + execution_notes(config, trainer.learner.device)
        for note in [*notes, *trainer.envs.suite.warnings()]:
            trainer.logger.log(f"note: {note}")
        try:
            loop.run(trainer)
        except RunFolderError as error:  # a fault during training is not a user error
            raise TrainingFault(str(error)) from error
        trainer.evaluator.log_summary()
        if trainer.stop.requested:
            trainer.fault_monitor.log_summary()
    return trainer.stop


def fault_message(fault: Exception, folder: RunFolder) -> str:
    """Return the sentence about a fault of training: an OSError of the folder names its file."""
    if not isinstance(fault, OSError):
        return str(fault)
    if fault.filename is None:
        return f"the system refused what training needs ({fault.strerror or fault})."
    return folder.store.refusal(str(fault.filename), fault)
