"""A training run: its parts and the operations that `mtrl_fairgrad.training.loop` calls."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.envs.vector_env import Step, TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerLost
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.evaluator import Evaluator
from mtrl_fairgrad.training.fault_monitor import FaultMonitor
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.signals import StopController, StopRequested
from mtrl_fairgrad.training.worker_restarts import WorkerRestarts
from mtrl_fairgrad.utils.faults import TrainingFault


@dataclass(eq=False)
class Trainer:
    """A run in progress, made by `mtrl_fairgrad.training.factory.make_trainer`.

    As a context manager it closes `resources` at the end.
    """

    config: Config
    folder: RunFolder
    progress: Progress
    stop: StopController
    envs: TaskVectorEnv
    observations: NDArray[np.float32]
    """Current observations of the simulators, `[S·K, O]`."""
    learner: Learner
    evaluator: Evaluator
    logger: Logger
    fault_monitor: FaultMonitor
    worker_restarts: WorkerRestarts
    resources: ExitStack = field(default_factory=ExitStack)
    """Closes simulators and log files at the end."""
    _checkpoint_due: bool = field(default=False, init=False)
    """Whether an evaluation was started, or waited for, since the last checkpoint."""

    def __post_init__(self) -> None:
        self._shape = len(self.config.seeds), self.envs.num_envs // len(self.config.seeds)
        self._speed_since = self.env_steps, self.learner.updates, self._learning_seconds()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resources.__exit__(kind, error, trace)

    @property
    def env_steps(self) -> int:
        """Transitions of each task so far."""
        return self.progress.env_steps

    @property
    def finished(self) -> bool:
        """Whether the configured number of steps is reached."""
        return self.env_steps >= self.config.steps

    @property
    def on_cpu(self) -> bool:
        """Whether the learner computes on the CPU, where an update is complete when it returns."""
        return self.learner.device.type == "cpu"

    # ---- one step ----

    def act(self) -> NDArray[np.float32]:
        """Return the actions `[S·K, A]` for the current observations.

        Raises:
            TrainingFault: the actions are not finite.
        """
        actions = self.learner.act(self.observations, self.env_steps)
        if not np.isfinite(actions).all():
            self.check_faults()
            raise TrainingFault(
                f"at env_steps={self.env_steps} the policy's actions are not finite."
            )
        return actions

    def finish_step(self, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], Step]:
        """Wait for the simulators, and advance the evaluation meanwhile.

        If a worker is lost, new episodes begin and their first step is taken instead.

        Returns:
            the actions taken, and what the simulators returned.
        """
        while True:
            try:
                self.evaluator.advance_until(self.envs.ready)
                return actions, self.envs.step_wait()
            except WorkerLost as lost:
                self._restart_episodes(lost)
            actions = self.act()
            self.envs.step_async(actions)

    def _restart_episodes(self, lost: WorkerLost) -> None:
        """Replace a lost worker, and any lost meanwhile, and start new episodes everywhere."""
        while True:
            self.worker_restarts.record_restart(lost, "training")
            try:
                self.observations = self.envs.reset()[0]
                self.learner.restart_episodes()
                return
            except WorkerLost as another:
                lost = another

    def store(self, actions: NDArray[np.float32], step: Step) -> None:
        """Store the transitions in the replay buffer and take over the new observations."""
        next_observations, rewards, terminated, truncated, infos = step
        ended = terminated | truncated
        arrays = (self.observations, actions, rewards, infos["final_obs"], terminated, ended)
        self.learner.store(self.learner.to_transition(*arrays))
        self.observations = next_observations

    def count_step(self, seconds: float) -> None:
        """Count the step, which took `seconds`."""
        self.progress.count_step(seconds)
        self.logger.advance()

    def report_step(self, step: Step) -> None:
        """Log ended episodes and, every `log_every` steps, an update; check for faults.

        Raises:
            TrainingFault: no seed can be trained any further.
        """
        infos, log_due = step[-1], self.env_steps % self.config.log_every == 0
        if "episode" in infos:
            self._log_episodes(infos)
        if self.on_cpu or log_due:
            self.check_faults()
        if log_due:
            self._log_update()

    def check_faults(self) -> None:
        """Report new numerical faults.

        Raises:
            TrainingFault: every seed has stopped training.
        """
        reason = self.fault_monitor.check(self.env_steps)
        if reason is not None:
            raise TrainingFault(
                f"at env_steps={self.env_steps} the run ended because every seed has stopped "
                f"training ({reason}); the last checkpoint in {self.folder.path} is unchanged."
            )

    def _log_episodes(self, infos: dict[str, Any]) -> None:
        ended = infos["_episode"].reshape(self._shape)
        if ended.any():
            success, returns = (
                np.where(ended, infos["episode"][key].reshape(self._shape), np.nan)
                for key in ("s", "r")
            )
            self.logger.log_episodes(success, returns, self.env_steps)

    def _log_update(self) -> None:
        metrics = self.learner.report()
        (env_steps, updates, since), now = self._speed_since, self._learning_seconds()
        seconds = max(now - since, 1e-9)
        self._speed_since = self.env_steps, self.learner.updates, now
        self.logger.log_speed((self.env_steps - env_steps) / seconds, self.env_steps)
        if metrics:
            speed = (self.learner.updates - updates) / seconds
            self.logger.log_update(metrics, self.env_steps, speed)

    def _learning_seconds(self) -> float:
        """Return the time without that which training spent on evaluations."""
        return time.monotonic() - self.evaluator.waited

    # ---- between steps ----

    def evaluate_if_due(self) -> None:
        """Start the evaluation that is due, if any.

        Wait for it where it cannot run during training: after the last step, or without workers. A
        stop request ends the waiting, and prevents new evaluations.
        """
        if self.stop.requested:
            return
        if self.evaluator.due(self.env_steps):
            self.check_faults()
            self.evaluator.start(self.env_steps)
            self._checkpoint_due = True
        if self.finished or not self.evaluator.background:
            # Even if it was started earlier: the last checkpoint records it as unfinished.
            self._checkpoint_due |= self.evaluator.running is not None
            self.evaluator.finish()

    def save_if_due(self) -> None:
        """Save a checkpoint after an evaluation or a stop request.

        Raises:
            StopRequested: this was the checkpoint of a stop.
        """
        stopping = self.stop.requested  # read once: a signal may come while the checkpoint is saved
        if stopping:
            self.logger.log("saving a checkpoint to stop; a second signal stops at once")
        if self._checkpoint_due or stopping:
            self.checkpoint()
            self._checkpoint_due = False
        if stopping:
            raise StopRequested(f"stopped at env_steps {self.env_steps}, with a checkpoint")

    # ---- checkpoints ----

    def checkpoint(self) -> None:
        """Save the run's state."""
        self.check_faults()
        self.logger.flush()
        environments = self._simulator_state()
        policy, evaluation = self.evaluator.state()
        state = {
            "environments": environments,
            "evaluation": evaluation,
            "replaced": self.worker_restarts.counts,
        }
        groups = {**self.learner.state(), **policy}
        self.folder.save_checkpoint(self.env_steps, groups, state, ring=self.learner.replay)
        self.fault_monitor.save()

    def _simulator_state(self) -> dict[str, Any]:
        """Return the state of the simulators."""
        while True:
            try:
                return self.envs.get_state()
            except WorkerLost as lost:
                self._restart_episodes(lost)
