"""Report numerical faults of updates, save them, and end the run when every seed has stopped."""

from __future__ import annotations

from collections.abc import Sequence

from mtrl_fairgrad.config.guard import STOP
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.fault_log import (
    NAME,
    Fault,
    describe_all,
    describe_faults,
    encode_faults,
    group_by_task,
    is_unsolved,
    make_faults,
)
from mtrl_fairgrad.runs.run_dir import RunFolder, write_atomic
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Logger


class FaultMonitor:
    """Reports what the agent's guard counts.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        learner: owner of the monitored agent; faults counted until now are not reported again.
        folder: where the list of faults is saved.
        logger: prints warnings.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[str],
        learner: Learner,
        folder: RunFolder,
        logger: Logger,
    ) -> None:
        self._config, self._tasks, self._learner = config, tasks, learner
        self._folder, self._logger = folder, logger
        self._reported = {_kind(fault) for fault in self.faults()}
        self._conditions = 0
        """Number of conditions that had occurred, over all seeds and tasks, at the last check."""

    def check(self, env_steps: int) -> str | None:
        """Report new faults; return the reason if every seed has stopped training, else None."""
        counted = self._learner.agent.faults()
        conditions = int((counted.first >= 0).sum())
        if conditions == self._conditions:
            return None
        self._conditions = conditions
        faults = self.faults()
        new = [fault for fault in faults if _kind(fault) not in self._reported]
        self._report(new, env_steps)
        if not bool(counted.stopped.all()):
            return None
        self.save()
        return "; ".join(
            describe_faults(group) for group in group_by_task(faults) if group[0].response == STOP
        )

    def _report(self, new: Sequence[Fault], env_steps: int) -> None:
        self._reported |= {_kind(fault) for fault in new}
        for group in group_by_task(new):
            first = group[0]
            if not is_unsolved(first):  # of those, the logger warns
                rest = "" if first.response == STOP else "; later ones are counted but not reported"
                self._logger.log(
                    f"warning: by env_steps {env_steps}: {describe_faults(group)}{rest}"
                )

    def faults(self) -> list[Fault]:
        """Return all faults so far."""
        counts, first, _ = (values.tolist() for values in self._learner.agent.faults())
        guard, seeds = self._config.guard, self._config.seeds
        return make_faults(counts, first, self._learner.updates, seeds, self._tasks, guard)

    def save(self) -> None:
        """Write all faults so far to the run folder."""
        write_atomic(self._folder.path / NAME, encode_faults(self.faults()))

    def log_summary(self) -> None:
        """Print all faults so far, for a run that ends without its report, which lists them."""
        for sentence in describe_all(self.faults()):
            self._logger.log(f"faults: {sentence}")


def _kind(fault: Fault) -> tuple[str, str, int, str]:
    return fault.network, fault.condition, fault.seed, fault.task
