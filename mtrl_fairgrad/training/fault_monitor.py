"""Report and save numerical faults, and end the run when every seed has stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.simulator_faults import SimulatorFaults


class FaultMonitor:
    """Reports what the agent's guard counts, and what simulators and evaluations return.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        learner: owner of the monitored agent; faults counted until now are not reported again.
        folder: where the list of faults is saved.
        logger: prints warnings.
        progress: provides the current step.
        simulators: counts of what simulators and evaluations returned.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[str],
        learner: Learner,
        folder: RunFolder,
        logger: Logger,
        progress: Progress,
        simulators: SimulatorFaults,
    ) -> None:
        self._config, self._tasks, self._learner = config, tasks, learner
        self._folder, self._logger, self._progress = folder, logger, progress
        self.simulators = simulators
        """Saved in checkpoints."""
        self._reported = {_kind(fault) for fault in self.faults()}
        self._conditions = 0
        """Number of conditions that had occurred, and of stopped tasks, at the last check."""

    def check(self, env_steps: int) -> str | None:
        """Report new faults; return the reason if every seed has stopped training, else None."""
        counted = self._learner.agent.faults()
        conditions = int((counted.first >= 0).sum() + counted.stopped.sum())
        if conditions == self._conditions:
            return None
        self._conditions = conditions
        faults = self._report_new(env_steps)
        if not bool(counted.stopped.all()):
            return None
        self.save()
        groups = group_by_task(faults)
        stopping = [group for group in groups if group[0].response == STOP]
        return "; ".join(map(describe_faults, stopping or groups))

    def record_transitions(self, bad: NDArray[np.bool_]) -> None:
        """Count the transitions of a step that have a number that is not finite, `[S, E', K]`."""
        if bad.any():
            self.simulators.count_transitions(bad, self._progress.env_steps)
            self._report_new(self._progress.env_steps)

    def record_evaluation(self, bad: NDArray[np.bool_], env_steps: int) -> None:
        """Count the episodes of an evaluation with such a number, `[S, K, E]`."""
        self.simulators.count_episodes(bad, env_steps)
        if bad.any():
            self._report_new(env_steps)

    def _report_new(self, env_steps: int) -> list[Fault]:
        """Report faults of new kinds; return all."""
        faults = self.faults()
        new = [fault for fault in faults if _kind(fault) not in self._reported]
        self._reported |= {_kind(fault) for fault in new}
        for group in group_by_task(new):
            first = group[0]
            if not is_unsolved(first):  # of those, the logger warns
                rest = "" if first.response == STOP else "; later ones are counted but not reported"
                self._logger.log(
                    f"warning: by env_steps {env_steps}: {describe_faults(group)}{rest}"
                )
        return faults

    def faults(self) -> list[Fault]:
        """Return all faults so far."""
        counts, first, _ = (values.tolist() for values in self._learner.agent.faults())
        guard, seeds = self._config.guard, self._config.seeds
        faults = make_faults(counts, first, self._learner.updates, seeds, self._tasks, guard)
        return faults + self.simulators.faults(self._progress.env_steps)

    def save(self) -> None:
        """Write all faults so far to the run folder."""
        write_atomic(self._folder.path / NAME, encode_faults(self.faults()))

    def log_summary(self) -> None:
        """Print all faults so far, for a run that ends without its report, which lists them."""
        for sentence in describe_all(self.faults()):
            self._logger.log(f"faults: {sentence}")


def _kind(fault: Fault) -> tuple[str, str, int, str]:
    return fault.network, fault.condition, fault.seed, fault.task
