"""Evaluation goals, and rollouts on separate environments, so that training is unaffected.

`evaluate` plays all episodes at once. `EvaluationRollout` advances step by step, so that its caller
can do other work while worker processes simulate. Both return the same numbers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.non_finite import non_finite_rows, without_non_finite
from mtrl_fairgrad.envs.rng import stream
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.vector_env import Infos, TaskVectorEnv
from mtrl_fairgrad.utils.validation import check_integer, check_seeds

Policy = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Observations [N, O] -> actions [N, A]. Idle rows are included; their actions are ignored."""


class EvaluationResult(NamedTuple):
    """Episodes in the order of the goals; all [S, K, E], `starts` [S, K, E, O]."""

    success: NDArray[np.bool_]  # whether any step succeeded
    # undiscounted return of the whole episode; NaN where the suite ends episodes at their success
    returns: NDArray[np.float64]
    # undiscounted return up to the first success, as in Meta-World's own evaluation
    returns_until_success: NDArray[np.float64]
    lengths: NDArray[np.int64]  # steps
    lengths_until_success: NDArray[np.int64]  # steps up to the first success
    starts: NDArray[np.float32]  # first observation: initial positions of object and goal
    # whether an observation, reward or action was NaN or infinite
    non_finite: NDArray[np.bool_]


def evaluation_goals(
    suite: Suite, seeds: Sequence[int], episodes: int, env_steps: int
) -> NDArray[np.int64]:
    """Draw `episodes` distinct goals for each (seed, task); int64 [S, K, episodes].

    The draw depends on seed, task and `env_steps` alone, so a resumed run evaluates on the same
    goals, and so does each seed and task, independently of the others.

    Raises:
        ValueError: a number is out of range.
    """
    every = all_goals(suite, seeds)
    hint = "(an evaluation plays each goal of a task at most once)"
    episodes = check_integer("episodes", episodes, at_least=1, at_most=every.shape[2], hint=hint)
    env_steps = check_integer("env_steps", env_steps, at_most=2**63 - 1)
    rows = [
        [
            every[s, k][
                stream(seed, task, "goals", env_steps).permutation(every.shape[2])[:episodes]
            ]
            for k, task in enumerate(suite.tasks)
        ]
        for s, seed in enumerate(seeds)
    ]
    return np.array(rows, np.int64)


def all_goals(suite: Suite, seeds: Sequence[int]) -> NDArray[np.int64]:
    """Return each evaluation goal exactly once for each (seed, task); int64 [S, K, E].

    E is 50, or 1 where Meta-World's goals are frozen.
    """
    return np.array(
        [[suite.goals(seed, task) for task in suite.tasks] for seed in check_seeds(seeds)],
        np.int64,
    )


def evaluate(envs: TaskVectorEnv, policy: Policy, goals: NDArray[np.int64]) -> EvaluationResult:
    """Play one episode per goal [S, K, E] on `envs` (role `eval`) with the actions of `policy`.

    An episode is a success if any of its steps is, and goes on to its end. With a suite's
    `terminate_on_success` it ends there, which changes no success rate and saves most of the
    simulation of a good policy, but leaves its whole return unknown. Actions that are not finite
    are replaced by zeros.

    Raises:
        ValueError: the goals' shape does not fit `envs`.
    """
    rollout = EvaluationRollout(envs, policy, goals)
    while not rollout.done:
        rollout.advance(wait=True)
    return rollout.result


class EvaluationRollout:
    """An evaluation in progress, continued by `advance`; arguments and errors as in `evaluate`.

    `envs` must not be used for anything else until `done`.
    """

    def __init__(self, envs: TaskVectorEnv, policy: Policy, goals: NDArray[np.int64]) -> None:
        expected = (len(envs.seeds), len(envs.tasks))
        if goals.ndim != 3 or goals.shape[:2] != expected:
            raise ValueError(
                f"goals of shape {list(goals.shape)} do not fit {expected[0]} seeds × "
                f"{expected[1]} tasks: give [{expected[0]}, {expected[1]}, E], as evaluation_goals "
                "does."
            )
        self._envs, self._policy, self._shape = envs, policy, goals.shape
        self.done = False
        """Whether all episodes are over."""
        rows, episodes = envs.num_envs, goals.shape[2]
        self._success = np.zeros((rows, episodes), np.bool_)
        self._returns = np.zeros((rows, episodes), np.float64)
        self._returns_until_success = np.zeros((rows, episodes), np.float64)
        self._lengths = np.zeros((rows, episodes), np.int64)
        self._lengths_until_success = np.zeros((rows, episodes), np.int64)
        self._non_finite = np.zeros((rows, episodes), np.bool_)
        self._played = np.zeros(rows, np.int64)
        observations, infos = envs.reset(options={"goals": goals.reshape(rows, episodes)})
        self._starts = np.repeat(observations[:, None], episodes, axis=1)
        self._go_on(observations, infos)

    def advance(self, wait: bool = False) -> bool:
        """Collect the running step and start the next one; return whether a step was collected.

        Without `wait`, return False at once while the simulators are still busy.
        """
        if self.done or not (wait or self._envs.ready()):
            return False
        observations, rewards, _, _, infos = self._envs.step_wait()
        self._mark(non_finite_rows(rewards, infos["final_obs"]))
        played, ended = self._played, np.flatnonzero(infos["_episode"])
        at, episode = (ended, played[ended]), infos["episode"]
        for stored, name in (
            (self._success, "s"),
            (self._returns, "r"),
            (self._returns_until_success, "r_until_success"),
            (self._lengths, "l"),
            (self._lengths_until_success, "l_until_success"),
        ):
            stored[at] = episode[name][ended]
        played[ended] += 1
        begun = ended[played[ended] < self._shape[2]]
        self._starts[begun, played[begun]] = observations[begun]
        self._go_on(observations, infos)
        return True

    def _go_on(self, observations: NDArray[np.float32], infos: Infos) -> None:
        self.done = bool(infos["idle"].all())
        if not self.done:
            actions = np.asarray(self._policy(observations))
            self._mark(non_finite_rows(observations, actions) & ~infos["idle"])
            self._envs.step_async(without_non_finite(actions))

    def _mark(self, rows: NDArray[np.bool_]) -> None:
        """Note that the current episodes of these rows have a number that is not finite."""
        marked = np.flatnonzero(rows & (self._played < self._shape[2]))
        self._non_finite[marked, self._played[marked]] = True

    @property
    def result(self) -> EvaluationResult:
        """The result so far; zeros and false for unfinished episodes."""
        shape = self._shape
        unknown = self._envs.suite.ends_at_success
        returns = np.full_like(self._returns, np.nan) if unknown else self._returns
        return EvaluationResult(
            self._success.reshape(shape),
            returns.reshape(shape),
            self._returns_until_success.reshape(shape),
            self._lengths.reshape(shape),
            self._lengths_until_success.reshape(shape),
            self._starts.reshape(*shape, -1),
            self._non_finite.reshape(shape),
        )
