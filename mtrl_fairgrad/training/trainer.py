"""The training of all seeds and tasks in one process: building the parts, one step, checkpoints,
stopping.
"""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
from gymnasium.spaces import flatdim
from numpy.typing import NDArray

from mtrl_fairgrad.agents import Batch
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.envs import WorkerLost
from mtrl_fairgrad.envs.vector_env import Step
from mtrl_fairgrad.envs.workers.pool import GRACE_SECONDS
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import Checkpoint, RunFolder, RunFolderError
from mtrl_fairgrad.training.evaluator import Evaluating
from mtrl_fairgrad.training.factory import make_envs
from mtrl_fairgrad.training.fault_monitor import Watching
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Tracker
from mtrl_fairgrad.training.worker_restarts import Replacements
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.utils.faults import TrainingFault


class Trainer:
    """A run in progress; `mtrl_fairgrad.train.run` tells the story, this holds the parts.

    Args:
        config: validated.
        folder: the run's folder, new or to be resumed.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self.device = resolve_device(config.device)
        self.tasks = tuple(config.env.tasks or task_names(config.env))
        self.shape = (len(config.seeds), len(self.tasks))
        self.env_steps = 0
        self.stop_signal: int | None = None
        """The signal that asked for a stop, if any."""
        self._stop_deadline = math.inf
        self._step_seconds = 0.0
        self.envs = make_envs(config, self.tasks, evaluation=False)
        try:
            self.eval_envs = make_envs(config, self.tasks, evaluation=True)
            self._build_learner()
            saved = self._load() if folder.has_checkpoint() else None
            environments = saved and saved.state.get("environments")
            self.observations = (
                self.envs.set_state(environments) if environments else self.envs.reset()[0]
            )
            folder.rewind(saved)
            self._build_tracker(resumed=saved is not None)
            self.watching = Watching(config, self.tasks, self.learner, folder, self.tracker.say)
            self.replacements = Replacements(
                config.env.worker_restarts, self.tracker, lambda: self.env_steps
            )
            if saved is not None:
                self.watching.save()
                self.replacements.go_back_to(saved.state.get("replaced", {}))
            self.evaluating = Evaluating(
                *(
                    config,
                    self.tasks,
                    self.eval_envs,
                    self.learner,
                    folder,
                    self.tracker,
                    self.replacements,
                ),
                stopping=lambda: self.stop_signal is not None,
            )
            self.evaluating.go_back_to(saved)
            self._speed_since = self.learner.updates, self._learning_seconds()
        except (ValueError, MemoryError) as error:
            self.close()
            raise (
                error
                if isinstance(error, ConfigError | RunFolderError)
                else ConfigError(str(error))
            ) from None
        except BaseException as error:
            self.close(at_once=isinstance(error, KeyboardInterrupt))
            raise

    def _build_learner(self) -> None:
        spaces = self.envs.single_observation_space, self.envs.single_action_space
        observation_dim, self._action_dim = map(flatdim, spaces)
        self.learner = Learner(
            self.config, len(self.tasks), observation_dim, self._action_dim, self.device
        )
        self.agent, self.replay, self.streams = (
            self.learner.agent,
            self.learner.replay,
            self.learner.streams,
        )

    def _build_tracker(self, resumed: bool) -> None:
        config = self.config
        sgd = config.method["name"] == "fairgrad" and config.method["solver"] == "sgd"
        self.tracker = Tracker(
            self.folder.path,
            self.tasks,
            config.steps,
            self.env_steps,
            resumed,
            config.progress,
            "method.solver=newton solves it exactly at about the same cost." if sgd else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is KeyboardInterrupt)

    def close(self, at_once: bool = False) -> None:
        """End simulators, `at_once` without waiting for what they are doing, and files; may be
        called twice.
        """
        for part in ("envs", "eval_envs"):
            if hasattr(self, part):
                getattr(self, part).close(grace=0.0 if at_once else GRACE_SECONDS)
        if hasattr(self, "tracker"):
            self.tracker.close()

    # ---- one step ----

    def step(self) -> None:
        """One step of every simulator, and meanwhile the updates it is worth and a part of the
        running evaluation.
        """
        started = time.monotonic()
        actions = self._choose_actions()
        self.envs.step_async(actions)
        self.evaluating.advance()
        self.learner.learn(self.env_steps)
        if (
            self.device.type == "cpu"
        ):  # on another device its actions would wait for the updates just queued there
            self.evaluating.advance()
        actions, (next_observations, rewards, terminated, _, infos) = self._finish_step(actions)
        self._remember(actions, rewards, infos["final_obs"], terminated)
        self.observations = next_observations
        self.env_steps += 1
        self.tracker.advance()
        self._step_seconds += 0.05 * (time.monotonic() - started - self._step_seconds)
        if "episode" in infos:
            self._track_episodes(infos)
        if self.device.type == "cpu" or self.env_steps % self.config.log_every == 0:
            self.check_faults()
        if self.env_steps % self.config.log_every == 0:
            self._track_update()

    def _finish_step(self, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], Step]:
        """The actions of the step under way and what it gave; a first one of fresh episodes where a
        worker is lost.
        """
        while True:
            try:
                self.evaluating.advance_until(self.envs.ready)
                return actions, self.envs.step_wait()
            except WorkerLost as lost:
                self._begin_anew(lost)
            actions = self._choose_actions()
            self.envs.step_async(actions)

    def _begin_anew(self, lost: WorkerLost) -> None:
        """Replace a lost worker, and those that are lost meanwhile; fresh episodes begin
        everywhere.
        """
        while True:
            self.replacements.admit(lost, "training")
            try:
                self.observations = self.envs.reset()[0]
                return
            except WorkerLost as another:
                lost = another

    def _choose_actions(self) -> NDArray[np.float32]:
        if self.env_steps < self.config.agent.warmup_steps:
            actions = self.streams.uniform(len(self.tasks), self._action_dim)
        else:
            noise = self.streams.normal(len(self.tasks), self._action_dim)
            actions = self.agent.act(self.learner.tensor(self.observations), noise)
        found = actions.flatten(0, 1).cpu().numpy()
        if not np.isfinite(found).all():
            self.check_faults()
            raise TrainingFault(
                f"at env_steps={self.env_steps} the policy's actions are not finite."
            )
        return found

    def _remember(
        self,
        actions: NDArray[np.float32],
        rewards: NDArray[Any],
        next_observations: NDArray[np.float32],
        terminated: NDArray[np.bool_],
    ) -> None:
        arrays = (self.observations, actions, rewards, next_observations, terminated)
        self.learner.remember(Batch(*map(self.learner.tensor, arrays)))

    def check_faults(self) -> None:
        """Say what went wrong in updates since the last time, and stop when nothing learns any
        more.

        Raises:
            TrainingFault: naming what happened, with step, seed and task.
        """
        reason = self.watching.look(self.env_steps)
        if reason is not None:
            raise TrainingFault(
                f"at env_steps={self.env_steps} the run stopped, since no seed learns any more "
                f"({reason}); the last checkpoint in {self.folder.path} is untouched."
            )

    # ---- what is shown ----

    def _track_episodes(self, infos: dict[str, Any]) -> None:
        ended = infos["_episode"].reshape(self.shape)
        if ended.any():
            success, returns = (
                np.where(ended, infos["episode"][key].reshape(self.shape), np.nan)
                for key in ("s", "r")
            )
            self.tracker.episodes(success, returns, self.env_steps)

    def _track_update(self) -> None:
        metrics = self.learner.report()
        if not metrics:
            return
        (updates, since), now = self._speed_since, self._learning_seconds()
        speed = (self.learner.updates - updates) / max(now - since, 1e-9)
        self._speed_since = self.learner.updates, now
        self.tracker.update(metrics, self.env_steps, speed)

    def _learning_seconds(self) -> float:
        """A clock that stands still while training waits for an evaluation."""
        return time.monotonic() - self.evaluating.waited

    # ---- evaluation ----

    def evaluate(self) -> bool:
        """Begin the evaluation that is due, if any, and wait for what cannot go on beside training.

        A stop that is asked for meanwhile ends the waiting. Returns whether there is something to
        be kept in a checkpoint: an evaluation was begun, or waited for.
        """
        due = self.evaluating.due(self.env_steps)
        if due:
            self.check_faults()
            self.evaluating.begin(self.env_steps)
        if self.env_steps >= self.config.steps or not self.evaluating.background:
            due |= (
                self.evaluating.running is not None
            )  # the one that the checkpoint before was to repeat
            self.evaluating.finish()
        return due

    # ---- checkpoints ----

    def checkpoint(self) -> None:
        """Save everything. Inside an episode, only at a run's very end, a run goes on from the
        checkpoint before.
        """
        self.check_faults()
        self.tracker.flush()
        environments = self._environments()
        policy, evaluation = self.evaluating.state()
        state = {
            "environments": environments,
            "evaluation": evaluation,
            "replaced": self.replacements.counts,
        }
        groups = {**self.learner.state(), **policy}
        self.folder.save_checkpoint(self.env_steps, groups, state, ring=self.replay)
        self.watching.save()

    def _environments(self) -> dict[str, Any] | None:
        """The state of the simulators, None inside an episode."""
        while self.envs.resumable:
            try:
                return self.envs.get_state()
            except WorkerLost as lost:
                self._begin_anew(lost)
        return None

    def _load(self) -> Checkpoint:
        """Let the learner go back to the newest checkpoint that can be continued."""
        saved = self.folder.resume_checkpoint(self.learner.state(), self.replay)
        if saved.state.get("environments") is None and saved.env_steps < self.config.steps:
            saved = self._boundary_before(saved)
        try:
            self.learner.load_state(saved.groups)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(
                f"the checkpoint in {self.folder.path} does not fit this run: {error}"
            ) from None
        self.env_steps = saved.env_steps
        return saved

    def _boundary_before(self, saved: Checkpoint) -> Checkpoint:
        """The checkpoint at an episode boundary that was kept beside one inside an episode."""
        for path in self.folder.checkpoints():
            if steps_of(path) < saved.env_steps:
                older = self.folder.resume_checkpoint(
                    self.learner.state(), self.replay, steps_of(path)
                )
                if older.state.get("environments") is not None:
                    return older
        raise ConfigError(
            f"the run in {self.folder.path} ended at env_steps={saved.env_steps}, inside an "
            "episode, and no earlier "
            "checkpoint is left: choose steps as a multiple of "
            f"env.horizon={self.config.env.horizon} in a new run."
        )

    # ---- stopping ----

    def request_stop(self, signal: int) -> None:
        """Ask the run to end: at the next common episode boundary, if `grace_seconds` allow, else
        at once.
        """
        self.stop_signal = signal
        self._stop_deadline = time.monotonic() + self.config.grace_seconds

    @property
    def out_of_grace(self) -> bool:
        """Whether a stop was requested and the next boundary is farther than the grace that is
        left.
        """
        horizon = self.config.env.horizon
        if self.stop_signal is None or self.envs.suite.replays or horizon is None:
            return False
        steps_left = horizon - self.envs.elapsed  # not env_steps: episodes may have begun anew
        return time.monotonic() + steps_left * self._step_seconds > self._stop_deadline
