"""A training run: its parts and the operations that `mtrl_fairgrad.training.loop` calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.envs.non_finite import non_finite_rows, without_non_finite
from mtrl_fairgrad.envs.vector_env import Infos, Step, TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerLost
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.callbacks import (
    Callbacks,
    CheckpointEvent,
    StepEvent,
    UpdateEvent,
    copied,
)
from mtrl_fairgrad.training.evaluator import Evaluator
from mtrl_fairgrad.training.fault_monitor import FaultMonitor
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.restore import SIMULATORS, by_half, save_simulators
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
    observations: list[NDArray[np.float32]]
    """By half of the simulators: the observations `[S·E'·K, O]` of its step that is running, or of
    the next one, where E' is the number of copies in a half.
    """
    learner: Learner
    evaluator: Evaluator
    logger: Logger
    fault_monitor: FaultMonitor
    worker_restarts: WorkerRestarts
    callbacks: Callbacks = field(default_factory=Callbacks)
    actions: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """By half, in the order of acting: the actions `[S·E'·K, A]` of its step that is running."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Closes simulators and log files at the end."""
    _checkpoint_due: bool = field(default=False, init=False)
    """Whether an evaluation was started, or waited for, since the last checkpoint."""

    def __post_init__(self) -> None:
        self._shape = len(self.config.seeds), -1, len(self.envs.tasks)
        self._received: list[Infos] = []
        """Infos of the steps that were received in this vector step."""
        self._stored: list[tuple[NDArray[Any], ...]] = []
        """Copies of these steps for callbacks, `[S·E'·K, ...]`, in the order of `StepEvent`."""
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

    @property
    def later_halves(self) -> range:
        """The halves after the first: none without copies."""
        return range(1, len(self.observations))

    def act(self, half: int) -> None:
        """Send a half's simulators the actions for their current observations.

        Where these are not finite, zeros are sent, and a seed whose observations are finite stops.

        Raises:
            TrainingFault: every seed has stopped training.
        """
        observations = self.observations[half]
        actions = self.learner.act(observations, self.env_steps, half)
        bad = non_finite_rows(actions)
        if bad.any():
            diverged = self._by_task(bad & ~non_finite_rows(observations)).any(axis=1)
            if diverged.any():
                self.learner.agent.stop(torch.from_numpy(diverged))
                self.check_faults()
        self.actions[half] = without_non_finite(actions)
        self.envs.step_async(self.actions[half], half)

    def receive(self, half: int) -> None:
        """Wait for a half's running step, if any, and store it; meanwhile advance evaluations."""
        if half not in self.actions:
            return
        next_observations, rewards, terminated, truncated, infos = self._wait(half)
        seen = self.observations[half], infos["final_obs"], rewards
        if self.callbacks.wants("on_step"):
            before, after, _ = seen
            step = before, self.actions[half], rewards, after, terminated, truncated
            self._stored.append(tuple(map(np.array, step)))
        self.fault_monitor.record_transitions(self._by_task(non_finite_rows(*seen)))
        self.learner.store(
            self.learner.to_transition(
                self.observations[half],
                self.actions.pop(half),
                rewards,
                infos["final_obs"],
                terminated,
                terminated | truncated,
            )
        )
        self.observations[half] = next_observations
        self._received.append(infos)

    def _wait(self, half: int) -> Step:
        """Return a half's step; if a worker is lost, the first step of the new episodes."""
        while True:
            try:
                self.evaluator.advance_until(lambda seconds: self.envs.ready(seconds, half))
                return self.envs.step_wait(half)
            except WorkerLost as lost:
                self._restart_episodes(lost)

    def _restart_episodes(self, lost: WorkerLost) -> None:
        """Replace a lost worker, and any lost meanwhile, and start new episodes everywhere.

        Halves whose step was running take the first step of these.
        """
        while True:
            self.worker_restarts.record_restart(lost, "training")
            try:
                self.observations = by_half(self.envs, self.envs.reset()[0])
                break
            except WorkerLost as another:
                lost = another
        self.learner.restart_episodes()
        for half in list(self.actions):
            self.act(half)

    def count_step(self) -> None:
        """Count the vector step."""
        self.progress.count_step()
        self.logger.advance(self.progress.copies)

    def report_step(self) -> None:
        """Log ended episodes and, every `log_every` env_steps, an update; check for faults.

        Raises:
            TrainingFault: no seed can be trained any further.
        """
        self._log_episodes()
        self._call_on_step()
        log_due = self.progress.passes(self.config.log_every)
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

    def _log_episodes(self) -> None:
        """Log success and return of the received episodes, means over a task's copies."""
        received, self._received = self._received, []
        ended = self._of_copies([infos["_episode"] for infos in received])
        if not ended.any():
            return
        count = ended.sum(axis=1)
        success, returns = (
            np.where(
                count,
                np.where(ended, self._of_copies([infos["episode"][key] for infos in received]), 0)
                .sum(axis=1)
                .astype(float)
                / np.maximum(count, 1),
                np.nan,
            )
            for key in ("s", "r")
        )
        self.logger.log_episodes(success, returns, self.env_steps)

    def _call_on_step(self) -> None:
        """Tell callbacks what was stored in this vector step."""
        parts, self._stored = self._stored, []
        if parts:
            arrays = [
                np.concatenate(list(map(self._by_task, part)), axis=1)
                for part in zip(*parts, strict=True)
            ]
            self.callbacks.call("on_step", lambda: StepEvent(*self._where(), *map(copied, arrays)))

    def _where(self) -> tuple[int, tuple[int, ...], tuple[str, ...], Path]:
        """Return the fields of an `Event`."""
        return self.env_steps, tuple(self.config.seeds), self.envs.tasks, self.folder.path

    def _of_copies(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return `[S, E, K]` from `[S·E'·K]` of the received halves."""
        return np.concatenate([self._by_task(part) for part in parts], axis=1)

    def _by_task(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return `[S, E', K, ...]` from `[S·E'·K, ...]`."""
        return rows.reshape(*self._shape, *rows.shape[1:])

    def _log_update(self) -> None:
        metrics = self.learner.report()
        (env_steps, updates, since), now = self._speed_since, self._learning_seconds()
        seconds = max(now - since, 1e-9)
        self._speed_since = self.env_steps, self.learner.updates, now
        self.logger.log_speed((self.env_steps - env_steps) / seconds, self.env_steps)
        if metrics:
            speed = (self.learner.updates - updates) / seconds
            self.logger.log_update(metrics, self.env_steps, speed)
            self.callbacks.call(
                "on_update",
                lambda: UpdateEvent(
                    *self._where(),
                    self.learner.updates,
                    {name: copied(value.detach().cpu().numpy()) for name, value in metrics.items()},
                ),
            )

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
        simulated = self._simulator_state()  # first, since it may restart episodes
        simulators, tensors = save_simulators(simulated, self.observations, self.actions)
        policy, evaluation = self.evaluator.state()
        state = {
            **simulators,
            "evaluation": evaluation,
            "replaced": self.worker_restarts.counts,
            "non_finite": self.fault_monitor.simulators.state(),
        }
        groups = {**self.learner.state(), **policy, SIMULATORS: tensors}
        self.fault_monitor.save()  # first, since the checkpoint records its checksum
        path = self.folder.save_checkpoint(self.env_steps, groups, state, ring=self.learner.replay)
        self.callbacks.call("on_checkpoint", lambda: CheckpointEvent(*self._where(), path))
        self._rebalance()

    def _simulator_state(self) -> dict[str, Any]:
        """Return the state of the simulators, at the end of steps that are running."""
        while True:
            try:
                return self.envs.get_state()
            except WorkerLost as lost:
                self._restart_episodes(lost)

    def _rebalance(self) -> None:
        """Share the simulators between the workers by their measured times, if that pays."""
        if self.finished or self.stop.requested:
            return
        try:
            self.envs.rebalance()
        except WorkerLost as lost:
            self._restart_episodes(lost)
