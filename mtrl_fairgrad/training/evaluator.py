"""A run's evaluations: each of the policy as it was when due, on simulators of their own, while
training goes on.

There are no threads: training lends a moment of each step, in which the copied policy acts once if
the evaluation's workers have answered. One evaluation is played at a time, so that they land in
order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.envs import Playing, TaskVectorEnv, WorkerLost, all_goals, evaluation_goals
from mtrl_fairgrad.runs.run_dir import Checkpoint, Evaluation, RunFolder
from mtrl_fairgrad.training.learner import Groups, Learner
from mtrl_fairgrad.training.logger import Tracker
from mtrl_fairgrad.training.worker_restarts import Replacements

PATIENCE = 0.001
"""Seconds that training's simulators are waited for until the evaluation's are asked again."""


@dataclass
class Running:
    """An evaluation that has not landed."""

    env_steps: int
    policy: dict[str, Tensor]
    """What `policy` of the agent returned then."""
    waited: float
    """What `Evaluating.waited` was when it began."""
    since: float = field(default_factory=time.monotonic)
    playing: Playing | None = None
    """None until its first step."""


class Evaluating:
    """Begins evaluations, plays them beside training, and writes down what they find.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        envs: of role `eval`; whoever made them closes them.
        learner: whose policy is evaluated.
        folder: where rows go.
        tracker: where they are shown.
        replacements: what is told of simulators that are lost.
        stopping: whether the run was asked to stop; from then on nothing is played.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[str],
        envs: TaskVectorEnv,
        learner: Learner,
        folder: RunFolder,
        tracker: Tracker,
        replacements: Replacements,
        stopping: Callable[[], bool],
    ) -> None:
        self._config, self._tasks, self._envs, self._learner = config, tuple(tasks), envs, learner
        self._folder, self._tracker, self._replacements, self._stopping = (
            folder,
            tracker,
            replacements,
            stopping,
        )
        self._since = time.monotonic()
        self.running: Running | None = None
        self.waited = 0.0
        """Seconds that training has spent on evaluations."""

    @property
    def background(self) -> bool:
        """Whether training goes on meanwhile; without workers there is nobody to simulate beside
        it.
        """
        return self._config.eval.background and self._envs.workers > 0

    def due(self, env_steps: int) -> bool:
        """Every `eval.every` steps, before the first and after the last one, unless it was begun
        already.
        """
        if env_steps % self._config.eval.every and env_steps < self._config.steps:
            return False
        running = self.running is not None and self.running.env_steps == env_steps
        return not running and all(row.env_steps != env_steps for row in self._folder.evaluations())

    def begin(self, env_steps: int) -> None:
        """Evaluate the policy of this moment, from now on; one that is still running is finished
        first.
        """
        if self.finish():
            self.running = Running(env_steps, self._learner.agent.policy(), self.waited)

    def advance(self) -> None:
        """Play one step if the simulators have answered, at the cost of the policy's actions; the
        first one resets.
        """
        self._go_on(wait=False)

    def advance_until(self, ready: Callable[[float], bool]) -> None:
        """Play on until `ready`, which waits for at most the seconds it is given: time that nothing
        else needs.
        """
        while self.running is not None and not ready(0.0):
            if not self._go_on(wait=False, counted=False):
                ready(PATIENCE)

    def finish(self) -> bool:
        """Play the running evaluation, if any, to its end; False when a stop was asked for before
        that.
        """
        while self.running is not None and not self._stopping():
            self._go_on(wait=True)
        return self.running is None

    def _go_on(self, wait: bool, counted: bool = True) -> bool:
        """Play a step if there is one to be played; whether there was."""
        running, started = self.running, time.monotonic()
        if running is None or self._stopping():
            return False
        try:
            if running.playing is None:
                running.playing = self._start(running)
            moved = running.playing.advance(wait)
        except WorkerLost as lost:
            self._replacements.admit(lost, "evaluation")
            running.playing, moved = None, False
        if counted:
            self.waited += time.monotonic() - started
        if running.playing is not None and running.playing.done:
            self._land(running, running.playing)
        return moved

    def _start(self, running: Running) -> Playing:
        agent, tensor = self._learner.agent, self._learner.tensor

        def policy(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            return (
                agent.act(tensor(observations), policy=running.policy).flatten(0, 1).cpu().numpy()
            )

        suite, seeds, settings = self._envs.suite, self._config.seeds, self._config.eval
        last = running.env_steps >= self._config.steps
        goals = (
            all_goals(suite, seeds)
            if last
            else evaluation_goals(suite, seeds, settings.episodes, running.env_steps)
        )
        self._tracker.show(evaluating=f"policy of {running.env_steps}")
        return Playing(self._envs, policy, goals)

    def _land(self, running: Running, playing: Playing) -> None:
        found, env_steps = playing.found, running.env_steps
        success, returns, episodes = (
            found.success.mean(-1),
            found.returns.mean(-1),
            found.success.shape[-1],
        )
        rows = [
            Evaluation(env_steps, seed, task, episodes, float(success[s, k]), float(returns[s, k]))
            for s, seed in enumerate(self._config.seeds)
            for k, task in enumerate(self._tasks)
        ]
        self._tracker.evaluation(success, returns, env_steps)
        self._tracker.flush()
        self._folder.append_evaluation(rows)
        self.running = None
        self._tracker.show(evaluating="")
        self._tracker.say(
            f"env_steps {env_steps}: success {success.mean():.3f} over {episodes} episodes of each "
            "of "
            f"{len(self._tasks)} tasks ({time.monotonic() - running.since:.0f} s, training waited "
            f"{self.waited - running.waited:.1f} s)"
        )

    # ---- checkpoints ----

    def state(self) -> tuple[Groups, int | None]:
        """What a checkpoint needs to repeat the running evaluation: groups of tensors, and its
        env_steps.
        """
        if self.running is None:
            return {}, None
        return {"evaluation": self.running.policy}, self.running.env_steps

    def go_back_to(self, saved: Checkpoint | None) -> None:
        """Repeat the evaluation that ran when a checkpoint was made, if any; the folder was rewound
        to it.

        Raises:
            ValueError: that evaluation is none of this run.
        """
        env_steps = None if saved is None else saved.state.get("evaluation")
        if saved is None or env_steps is None:
            return
        policy, like = saved.groups.get("evaluation", {}), self._learner.agent.policy()
        shapes = (
            {name: (value.shape, value.dtype) for name, value in each.items()}
            for each in (policy, like)
        )
        if env_steps not in range(saved.env_steps + 1) or next(shapes) != next(shapes):
            raise ValueError(
                f"the evaluation in the checkpoint of {self._folder.path} does not fit this run."
            )
        device = self._learner.agent.device
        self.running = Running(
            env_steps, {name: value.to(device) for name, value in policy.items()}, self.waited
        )

    def sum_up(self) -> None:
        """Say what evaluations cost, and which one is left to a resumed run."""
        if self.running is not None:
            self._tracker.say(
                f"the evaluation of env_steps {self.running.env_steps} was left; resuming will "
                "repeat it"
            )
        if self.waited:
            whole = time.monotonic() - self._since
            self._tracker.say(
                f"training waited {self.waited:.0f} of {whole:.0f} s for evaluations "
                f"({self.waited / whole:.0%})"
            )
