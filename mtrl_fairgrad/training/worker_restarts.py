"""Replacement of simulator workers that died or stopped answering: counted, logged and limited.

The simulators replace a worker in `reset`: in training, all tasks and seeds start new episodes at
the same step, with the goals that follow those already used; an evaluation starts again from its
beginning. The interrupted step, or the interrupted evaluation, is discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mtrl_fairgrad.envs.workers.pool import WorkerError, WorkerLost
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress


class WorkerRestarts:
    """Counts the replaced workers of a run, including those before it was resumed.

    Args:
        limit: the largest number of replacements (`env.worker_restarts`).
        logger: reports each replacement.
        progress: provides the current step.
    """

    def __init__(self, limit: int, logger: Logger, progress: Progress) -> None:
        self._limit, self._logger, self._progress = limit, logger, progress
        self.counts = {"training": 0, "evaluation": 0}
        """Replacements by what the worker simulated; saved in checkpoints."""

    @property
    def count(self) -> int:
        """Replacements in training and evaluation together."""
        return sum(self.counts.values())

    def record_restart(self, lost: WorkerLost, role: str, consequence: str = "") -> None:
        """Count and report a replacement in `training` or `evaluation`.

        Args:
            lost: the worker.
            role: what it simulated.
            consequence: what happens next, other than in the middle of the run.

        Raises:
            WorkerLost: the limit is reached.
        """
        if self.count >= self._limit:
            self._logger.log(
                f"note: the limit env.worker_restarts={self._limit} is reached, "
                "so the lost worker is not replaced"
            )
            raise lost
        self.counts[role] += 1
        consequence = consequence or (
            "training starts new episodes of all tasks"
            if role == "training"
            else "the evaluation starts again"
        )
        self._logger.log(
            f"note: at env_steps {self._progress.env_steps} {lost.loss}: {consequence} with a new "
            f"worker, replacement {self.count} of at most {self._limit}"
        )
        self._log_count()

    def record_starts(self, lost: Sequence[WorkerLost]) -> None:
        """Count and report workers replaced before training began; errors as above."""
        for each in lost:
            self.record_restart(each, "training", "it starts again")

    def restore(self, saved: Mapping[str, int]) -> None:
        """Continue from the counts of a checkpoint."""
        self.counts.update({role: saved.get(role, 0) for role in self.counts})
        if self.count:
            self._log_count()

    def _log_count(self) -> None:
        # Logged for the step in progress: a run that resumes at its beginning drops this entry and
        # logs the count of its checkpoint.
        self._logger.log_worker_restarts(
            self.count, self._progress.env_steps + self._progress.copies
        )


def collect_losses(lost: list[WorkerLost], limit: int) -> Callable[[WorkerLost], None]:
    """Return a function that adds a worker to `lost`, and raises WorkerError beyond `limit`."""

    def collect(worker: WorkerLost) -> None:
        if len(lost) >= limit:
            raise startup_error(worker)
        lost.append(worker)

    return collect


def startup_error(lost: WorkerLost) -> WorkerError:
    """Return the error of a command that ends before its first step, so that nothing is lost."""
    return WorkerError(
        f"{lost.loss}, before the first step: unless it was killed on purpose, check the memory of "
        "this machine, and give the command again."
    )
