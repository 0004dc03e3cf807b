"""Evaluations of a run, each of the policy at the step when it was due, on separate simulators.

An evaluation runs while training goes on, without threads: each training step polls the evaluation
workers and, when they have answered, advances them once with the frozen policy. Only one evaluation
runs at a time, so results are recorded in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mtrl_fairgrad.agents import SeedPolicies, on_rows
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.envs.evaluation import EvaluationRollout, all_goals, evaluation_goals
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerLost
from mtrl_fairgrad.runs.evaluation_table import known
from mtrl_fairgrad.runs.run_dir import Checkpoint, Evaluation, RunFolder
from mtrl_fairgrad.training.callbacks import Callbacks, EvaluationEvent, copied
from mtrl_fairgrad.training.fault_monitor import FaultMonitor
from mtrl_fairgrad.training.learner import Groups, Learner
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.signals import StopController
from mtrl_fairgrad.training.worker_restarts import WorkerRestarts

POLL_SECONDS = 0.001
"""How long to wait for the training simulators before polling the evaluation's again."""


@dataclass
class RunningEvaluation:
    """An evaluation whose results are not recorded yet."""

    env_steps: int
    """The training step whose policy is evaluated."""
    policy: dict[str, Tensor]
    """Copy of the policy's parameters, as returned by the agent's `policy`."""
    waited_before: float
    """`Evaluator.waited` when the evaluation began."""
    started: float = field(default_factory=time.monotonic)
    rollout: EvaluationRollout | None = None
    """The episodes in progress; None until the first step."""


class Evaluator:
    """Starts evaluations, advances them during training and records their results.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        envs: simulators of role `eval`; not closed here.
        learner: owner of the policy that is evaluated.
        folder: where results are recorded.
        logger: shows results.
        worker_restarts: records lost workers of `envs`.
        fault_monitor: counts episodes with numbers that are not finite.
        stop: after a stop request no evaluation is advanced.
        callbacks: are told of each result.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[str],
        envs: TaskVectorEnv,
        learner: Learner,
        folder: RunFolder,
        logger: Logger,
        worker_restarts: WorkerRestarts,
        fault_monitor: FaultMonitor,
        stop: StopController,
        callbacks: Callbacks | None = None,
    ) -> None:
        self._config, self._tasks, self._envs, self._learner = config, tuple(tasks), envs, learner
        self._folder, self._logger = folder, logger
        self._worker_restarts, self._stop = worker_restarts, stop
        self._fault_monitor = fault_monitor
        self._callbacks = callbacks or Callbacks()
        self._created = time.monotonic()
        self.running: RunningEvaluation | None = None
        self.waited = 0.0
        """Seconds that training has spent on evaluations."""

    @property
    def background(self) -> bool:
        """Whether evaluations run while training goes on; without workers they cannot."""
        return self._config.eval.background and self._envs.workers > 0

    def due(self, env_steps: int) -> bool:
        """Whether to start an evaluation.

        It is due when a multiple of `eval.every` is reached or passed, before the first and after
        the last step, unless it was already started or recorded.
        """
        reached = Progress(env_steps, self._config.env.copies).passes(self._config.eval.every)
        if not reached and env_steps < self._config.steps:
            return False
        running = self.running is not None and self.running.env_steps == env_steps
        return not running and all(row.env_steps != env_steps for row in self._folder.evaluations())

    def start(self, env_steps: int) -> None:
        """Start the evaluation of the current policy, after finishing the one that is running."""
        if self.finish():
            self.running = RunningEvaluation(env_steps, self._learner.agent.policy(), self.waited)

    def advance(self) -> None:
        """Advance the running evaluation by one step if its simulators have answered.

        The first step resets them.
        """
        self._advance(wait=False)

    def advance_until(self, ready: Callable[[float], bool]) -> None:
        """Advance the running evaluation until `ready`, in time that training does not need.

        Args:
            ready: waits at most the given number of seconds; returns whether training can go on.
        """
        while self.running is not None and not ready(0.0):
            if not self._advance(wait=False, counted=False):
                ready(POLL_SECONDS)

    def finish(self) -> bool:
        """Run the current evaluation, if any, to its end; False if a stop request came first."""
        while self.running is not None and not self._stop.requested:
            self._advance(wait=True)
        return self.running is None

    def _advance(self, wait: bool, counted: bool = True) -> bool:
        """Take one step of the running evaluation; return whether its simulators had answered.

        Args:
            wait: wait for the simulators.
            counted: count the time as training's waiting time.
        """
        running, started = self.running, time.monotonic()
        if running is None or self._stop.requested:
            return False
        try:
            if running.rollout is None:
                running.rollout = self._start_episodes(running)
            advanced = running.rollout.advance(wait)
        except WorkerLost as lost:
            self._worker_restarts.record_restart(lost, "evaluation")
            running.rollout, advanced = None, False
        if counted:
            self.waited += time.monotonic() - started
        if running.rollout is not None and running.rollout.done:
            self._record(running, running.rollout)
        return advanced

    def _start_episodes(self, running: RunningEvaluation) -> EvaluationRollout:
        suite, seeds, settings = self._envs.suite, self._config.seeds, self._config.eval
        modules = self._learner.agent.policy_modules(running.policy)
        policies = SeedPolicies(module.act for module in modules)
        last = running.env_steps >= self._config.steps
        goals = (
            all_goals(suite, seeds)
            if last
            else evaluation_goals(suite, seeds, settings.episodes, running.env_steps)
        )
        self._logger.show(evaluating=f"policy of {running.env_steps}")
        return EvaluationRollout(self._envs, on_rows(policies, len(seeds)), goals)

    def _record(self, running: RunningEvaluation, rollout: EvaluationRollout) -> None:
        result, env_steps = rollout.result, running.env_steps
        success, returns = result.success.mean(-1), result.returns.mean(-1)
        until_success = result.returns_until_success.mean(-1)
        episodes = result.success.shape[-1]
        rows = [
            Evaluation(
                env_steps,
                seed,
                task,
                episodes,
                float(success[s, k]),
                known(float(returns[s, k])),
                known(float(until_success[s, k])),
            )
            for s, seed in enumerate(self._config.seeds)
            for k, task in enumerate(self._tasks)
        ]
        # The log is written first: a resumed run repeats an evaluation that is missing in the
        # folder, not one that is missing in the log.
        self._logger.log_evaluation(success, returns, until_success, env_steps)
        self._logger.flush()
        self._folder.append_evaluation(rows)
        self._fault_monitor.record_evaluation(result.non_finite, env_steps)
        self.running = None
        self._logger.show(evaluating="")
        self._logger.log(
            f"env_steps {env_steps}: success {success.mean():.3f} over {episodes} episodes of each "
            f"of {len(self._tasks)} tasks ({time.monotonic() - running.started:.0f} s, training "
            f"waited {self.waited - running.waited_before:.1f} s)"
        )
        where = env_steps, tuple(self._config.seeds), self._tasks, self._folder.path
        returned = success, returns, until_success
        self._callbacks.call(
            "on_evaluation", lambda: EvaluationEvent(*where, episodes, *map(copied, returned))
        )

    # ---- checkpoints ----

    def state(self) -> tuple[Groups, int | None]:
        """Return what a checkpoint needs to repeat the running evaluation.

        Returns:
            its policy as a group of tensors, and its env_steps; empty and None without one.
        """
        if self.running is None:
            return {}, None
        return {"evaluation": self.running.policy}, self.running.env_steps

    def log_summary(self) -> None:
        """Print how long training waited for evaluations, and which one is unfinished."""
        if self.running is not None:
            self._logger.log(
                f"the evaluation of env_steps {self.running.env_steps} is unfinished; "
                "a resumed run repeats it"
            )
        if self.waited:
            total = time.monotonic() - self._created
            self._logger.log(
                f"training waited {self.waited:.0f} of {total:.0f} s for evaluations "
                f"({self.waited / total:.0%})"
            )


def saved_evaluation(
    saved: Checkpoint, learner: Learner, folder: RunFolder
) -> RunningEvaluation | None:
    """Return the evaluation that was running when the checkpoint was made, from its beginning.

    Raises:
        ValueError: the policy in the checkpoint does not fit this run.
    """
    env_steps = saved.state.get("evaluation")
    if env_steps is None:
        return None
    policy, current = saved.groups.get("evaluation", {}), learner.agent.policy()
    if env_steps not in range(saved.env_steps + 1) or _layout(policy) != _layout(current):
        raise ValueError(
            f"the evaluation in the checkpoint of {folder.path} does not fit this run: "
            "resume with another checkpoint."
        )
    return RunningEvaluation(env_steps, policy, 0.0)


def _layout(policy: dict[str, Tensor]) -> dict[str, object]:
    """Return shape and type of each parameter."""
    return {name: (value.shape, value.dtype) for name, value in policy.items()}
