"""The training of all seeds and tasks in one process: building the parts, one step, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import flatdim
from numpy.typing import NDArray

from agents import Batch
from envs import all_goals, evaluate, evaluation_goals
from mtrl_fairgrad.building import make_envs, resolve_device, task_names
from mtrl_fairgrad.checkpoints import steps_of
from mtrl_fairgrad.config import Config, ConfigError
from mtrl_fairgrad.learning import Learner
from mtrl_fairgrad.runs import Checkpoint, Evaluation, RunFolder, RunFolderError
from mtrl_fairgrad.tracking import Tracker


class TrainingFault(RuntimeError):
    """A loss or gradient stopped being a number; the message names step, task and seed."""


class StopRequested(Exception):
    """Someone asked the run to stop while it was evaluating."""


class Trainer:
    """A run in progress; `mtrl_fairgrad.train.run` tells the story, this holds the parts.

    Args:
        config: validated.
        folder: the run's folder, new or to be resumed.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self.device = resolve_device(config.device)
        self.tasks = tuple(config.env.tasks or task_names(config))
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
            resumed = folder.has_checkpoint()
            self.observations = self._load() if resumed else self._begin()
            self._speed_since = self.learner.updates, time.monotonic()
        except (ValueError, MemoryError) as error:
            self.close()
            raise error if isinstance(error, ConfigError | RunFolderError) else ConfigError(str(error)) from None
        except BaseException:
            self.close()
            raise
        sgd = config.method["name"] == "fairgrad" and config.method["solver"] == "sgd"
        self.tracker = Tracker(
            folder.path,
            self.tasks,
            config.steps,
            self.env_steps,
            resumed,
            config.progress,
            "method.solver=newton solves it exactly at about the same cost." if sgd else None,
        )

    def _build_learner(self) -> None:
        spaces = self.envs.single_observation_space, self.envs.single_action_space
        observation_dim, self._action_dim = map(flatdim, spaces)
        self.learner = Learner(self.config, len(self.tasks), observation_dim, self._action_dim, self.device)
        self.agent, self.replay, self.streams = self.learner.agent, self.learner.replay, self.learner.streams

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End simulators and files; may be called twice."""
        for part in ("envs", "eval_envs", "tracker"):
            if hasattr(self, part):
                getattr(self, part).close()

    # ---- one step ----

    def step(self) -> None:
        """One step of every simulator, and meanwhile the updates it is worth."""
        started = time.monotonic()
        actions = self._choose_actions()
        self.envs.step_async(actions)
        self.learner.learn(self.env_steps)
        next_observations, rewards, terminated, _, infos = self.envs.step_wait()
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

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """`[S·K, ...]` from the simulators as float32 `[S, K, ...]` on the learner's device."""
        shaped = torch.from_numpy(array.reshape(*self.shape, *array.shape[1:]))
        return shaped.to(self.device, torch.float32, non_blocking=True)

    def _choose_actions(self) -> NDArray[np.float32]:
        if self.env_steps < self.config.agent.warmup_steps:
            actions = self.streams.uniform(len(self.tasks), self._action_dim)
        else:
            noise = self.streams.normal(len(self.tasks), self._action_dim)
            actions = self.agent.act(self._tensor(self.observations), noise)
        found = actions.flatten(0, 1).cpu().numpy()
        if not np.isfinite(found).all():
            self.check_faults()
            raise TrainingFault(f"at env_steps={self.env_steps} the policy's actions are not finite.")
        return found

    def _remember(
        self,
        actions: NDArray[np.float32],
        rewards: NDArray[Any],
        next_observations: NDArray[np.float32],
        terminated: NDArray[np.bool_],
    ) -> None:
        arrays = (self.observations, actions, rewards, next_observations, terminated)
        self.learner.remember(Batch(*(self._tensor(array) for array in arrays)))

    def check_faults(self) -> None:
        """Stop when a task's loss or gradient was not finite.

        Raises:
            TrainingFault: naming the first such update with its step, task and seed.
        """
        first = self.agent.first_fault.cpu()
        if not (first >= 0).any():
            return
        update = int(first[first >= 0].min())
        places = [
            f"task {self.tasks[k]} of seed {self.config.seeds[s]}" for s, k in (first == update).nonzero().tolist()
        ]
        raise TrainingFault(
            f"at env_steps={self.env_steps} (update {update}) the loss or gradient of {', '.join(places)} is not "
            f"finite, so the run stopped; the last checkpoint in {self.folder.path} is untouched."
        )

    # ---- what is shown ----

    def _track_episodes(self, infos: dict[str, Any]) -> None:
        ended = infos["_episode"].reshape(self.shape)
        if ended.any():
            success, returns = (
                np.where(ended, infos["episode"][key].reshape(self.shape), np.nan) for key in ("s", "r")
            )
            self.tracker.episodes(success, returns, self.env_steps)

    def _track_update(self) -> None:
        metrics = self.learner.report()
        if not metrics:
            return
        (updates, since), now = self._speed_since, time.monotonic()
        speed = (self.learner.updates - updates) / max(now - since, 1e-9)
        self._speed_since = self.learner.updates, now
        self.tracker.update(metrics, self.env_steps, speed)

    # ---- evaluation ----

    def evaluation_due(self) -> bool:
        """Every `eval.every` steps, before the first and after the last one, unless it has been done."""
        scheduled = self.env_steps % self.config.eval.every == 0 or self.env_steps >= self.config.steps
        return scheduled and all(row.env_steps != self.env_steps for row in self.folder.evaluations())

    def evaluate(self) -> None:
        """Measure success on the evaluation's own simulators; training does not notice.

        Raises:
            StopRequested: a stop was asked for meanwhile; nothing is recorded.
        """
        self.check_faults()
        last = self.env_steps >= self.config.steps
        seeds, episodes = self.config.seeds, self.config.eval.episodes
        suite = self.eval_envs.suite
        goals = all_goals(suite, seeds) if last else evaluation_goals(suite, seeds, episodes, self.env_steps)
        started = time.monotonic()
        self.tracker.show(evaluating=f"{goals.shape[-1]} episodes/task")
        found = evaluate(self.eval_envs, self._greedy, goals)
        success, returns = found.success.mean(-1), found.returns.mean(-1)
        rows = [
            Evaluation(self.env_steps, seed, task, goals.shape[-1], float(success[s, k]), float(returns[s, k]))
            for s, seed in enumerate(seeds)
            for k, task in enumerate(self.tasks)
        ]
        try:
            self.folder.append_evaluation(rows)
        except OSError as error:
            raise RunFolderError(
                f"the evaluation could not be written to {self.folder.path} ({error.strerror or error}): make room, "
                f"then continue with resume={self.folder.path}."
            ) from error
        self.tracker.evaluation(success, returns, self.env_steps)
        self.tracker.show(evaluating="")
        self.tracker.say(
            f"env_steps {self.env_steps}: success {success.mean():.3f} over {goals.shape[-1]} episodes of each of "
            f"{len(self.tasks)} tasks ({time.monotonic() - started:.0f} s)"
        )
        self._speed_since = self.learner.updates, time.monotonic()

    def _greedy(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.stop_signal is not None:
            raise StopRequested
        return self.agent.act(self._tensor(observations)).flatten(0, 1).cpu().numpy()

    # ---- checkpoints ----

    def checkpoint(self) -> None:
        """Save everything. Inside an episode, only at a run's very end, a run goes on from the checkpoint before."""
        self.check_faults()
        self.tracker.flush()
        environments = self.envs.get_state() if self.envs.resumable else None
        state = {"environments": environments}
        self.folder.save_checkpoint(self.env_steps, self.learner.state(), state, ring=self.replay)

    def _begin(self) -> NDArray[np.float32]:
        """Start from nothing, also where a predecessor died before its first checkpoint."""
        self.folder.rewind(-1)
        return self.envs.reset()[0]

    def _load(self) -> NDArray[np.float32]:
        """Go back to the newest checkpoint that can be continued; returns the observations training goes on from."""
        saved = self.folder.resume_checkpoint(self.learner.state(), self.replay)
        if saved.state.get("environments") is None and saved.env_steps < self.config.steps:
            saved = self._boundary_before(saved)
        try:
            self.learner.load_state(saved.groups)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(f"the checkpoint in {self.folder.path} does not fit this run: {error}") from None
        self.env_steps = saved.env_steps
        self.folder.rewind(saved.env_steps)
        environments = saved.state.get("environments")
        return self.envs.reset()[0] if environments is None else self.envs.set_state(environments)

    def _boundary_before(self, saved: Checkpoint) -> Checkpoint:
        """The checkpoint at an episode boundary that was kept beside one inside an episode."""
        for path in self.folder.checkpoints():
            if steps_of(path) < saved.env_steps:
                older = self.folder.resume_checkpoint(self.learner.state(), self.replay, steps_of(path))
                if older.state.get("environments") is not None:
                    return older
        raise ConfigError(
            f"the run in {self.folder.path} ended at env_steps={saved.env_steps}, inside an episode, and no earlier "
            f"checkpoint is left: choose steps as a multiple of env.horizon={self.config.env.horizon} in a new run."
        )

    # ---- stopping ----

    def request_stop(self, signal: int) -> None:
        """Ask the run to end: at the next common episode boundary, if `grace_seconds` allow, else at once."""
        self.stop_signal = signal
        self._stop_deadline = time.monotonic() + self.config.grace_seconds

    @property
    def out_of_grace(self) -> bool:
        """Whether a stop was requested and the next boundary is farther than the grace that is left."""
        horizon = self.config.env.horizon
        if self.stop_signal is None or self.envs.suite.replays or horizon is None:
            return False
        steps_left = horizon - self.env_steps % horizon
        return time.monotonic() + steps_left * self._step_seconds > self._stop_deadline
