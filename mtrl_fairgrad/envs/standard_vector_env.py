"""`make_vec`: Meta-World's tasks as a vector environment like Gymnasium's own.

`TaskVectorEnv` is made for this project's trainer: seeds fixed when it is made, halves, states that
resume. This is the other face of it, for algorithms written against Gymnasium: `reset(seed=)`, both
modes of autoreset, and `infos` in the form that `gymnasium.vector.SyncVectorEnv` gives them.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Self

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl_fairgrad.envs.metaworld import HORIZON, MetaworldSuite
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.task_names import MT10, MT50, check_tasks
from mtrl_fairgrad.envs.vector_env import Infos, Observations, Step, TaskVectorEnv
from mtrl_fairgrad.envs.workers.load_balancing import worker_count
from mtrl_fairgrad.utils.validation import (
    MAX_SEED,
    ConfigError,
    check_choice,
    check_copies,
    check_flag,
    check_integer,
)

MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
SUITES = {"MT10": MT10, "MT50": MT50}
STEP_SECONDS = 60.0
"""Time limit of a step, after which a worker counts as hung."""


def make_vec(
    name: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    copies: int = 1,
    workers: int | None = None,
    seed: int = 0,
    horizon: int = HORIZON,
    task_id: str = "onehot",
    stagger: bool = False,
    terminate_on_success: bool = False,
    reward_version: str = "v2",
    goals: str = "random",
    observation: str = "full",
    fast: bool = True,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
) -> "StandardVectorEnv":
    """Make Meta-World's tasks as a Gymnasium vector environment, over the fast simulators.

        envs = make_vec("MT10", copies=4)
        observations, infos = envs.reset(seed=1)

    Args:
        name: `MT10`, `MT50`, or one task as in `MT1-reach-v3`.
        tasks: names of tasks, instead of `name`; their order is that of the one-hot identity.
        copies: simulators of each task, 1 or an even number.
        workers: simulator processes; 0: simulate in this one; None: all cores but one.
        seed: determines the 50 goals of each task and which of them each episode plays;
            `reset(seed=)` changes it.
        horizon: time limit of episodes in steps, 1 to 500.
        task_id: `onehot` appends the task's one-hot identity to observations, `none` does not.
        stagger: spread the ends of the copies' first episodes over the time limit.
        terminate_on_success: end an episode at its first success.
        reward_version: `v2` (0 to 10 per step) or `v1`.
        goals: `random`, or `frozen` for one goal for each task and seed.
        observation: `full` (39 numbers) or `hand_objects_goal` (12 positions).
        fast: use the reimplemented simulators, which return the same numbers as Meta-World's.
        autoreset_mode: `SAME_STEP`, or `NEXT_STEP` as some of Gymnasium's wrappers need, such as
            `NormalizeObservation`.

    Raises:
        ConfigError: an argument that is not allowed.
    """
    suite = MetaworldSuite(
        tasks=_named_tasks(name, tasks),
        one_hot=check_choice("task_id", task_id, ("onehot", "none")) == "onehot",
        horizon=horizon,
        reward_version=reward_version,
        terminate_on_success=terminate_on_success,
        goal_choice=check_choice("goals", goals, ("random", "frozen")),
        observation=observation,
        fast=fast,
    )
    return StandardVectorEnv(suite, copies, workers, seed, stagger, autoreset_mode)


def _named_tasks(name: str | None, tasks: Sequence[str] | None) -> tuple[str, ...]:
    if (name is None) == (tasks is None):
        raise ConfigError(
            'make_vec needs either a name, as in make_vec("MT10"), or tasks=["reach-v3", …].',
            "name",
            name,
        )
    if tasks is not None:
        names = [check_choice("tasks", task, MT50) for task in tasks]
        try:
            return check_tasks(names)
        except ValueError as error:
            raise ConfigError(str(error), "tasks", list(tasks)) from None
    word = str(name)
    if word.upper() in SUITES:
        return SUITES[word.upper()]
    task = word.lower().removeprefix("mt1-").removesuffix("-v3") + "-v3"
    if word.upper().startswith("MT1-") and task in MT50:
        return (task,)
    [close] = get_close_matches(task, MT50, n=1, cutoff=0.0)
    raise ConfigError(
        f"name={word!r} is unknown: give MT10, MT50, or MT1 with one task, such as MT1-{close}.",
        "name",
        name,
    )


class StandardVectorEnv(VectorEnv[Observations, NDArray[Any], NDArray[Any]]):
    """N = E·K sub-environments, E copies of K tasks; row i simulates task i mod K.

    Observations are float32 [N, O], rewards float64 [N]; actions [N, A] are clipped to [−1, 1].
    `infos` holds `success` bool [N], whether this step succeeds, and `goal` int64 [N], which of the
    task's 50 goals is being played; each entry has its mask, such as `_success`.

    With `SAME_STEP` the step that ends an episode returns the first observation of the next one,
    and `infos` then also holds

    - `final_obs` object [N]: the last observation float32 [O] of an episode that ended, else None;
    - `final_info`: `success` and `goal` of the ended episode's last step, `success_once`, whether
      any of its steps succeeded, and `episode` with its return `r` and its steps `l`.

    With `NEXT_STEP` it returns the last observation, and `infos` also holds `success_once`; the
    next step ignores the row's action, starts the next episode and gives reward 0.

    Gymnasium's `RecordEpisodeStatistics` can be put around both, though before Gymnasium 1.4 it
    counts a step too few with `SAME_STEP`, where `final_info` is right.

    The simulators are built by the first `reset`. A seed gives the same episodes whether it is
    given there or at construction. A worker that dies raises `WorkerLost` once; then `reset`
    replaces it.
    """

    def __init__(
        self,
        suite: Suite,
        copies: int = 1,
        workers: int | None = None,
        seed: int = 0,
        stagger: bool = False,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:
        if autoreset_mode not in MODES:
            raise ConfigError(
                f"autoreset_mode={autoreset_mode} is not supported: give AutoresetMode.SAME_STEP "
                "or AutoresetMode.NEXT_STEP.",
                "autoreset_mode",
                autoreset_mode,
            )
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self.suite, self.tasks = suite, suite.tasks
        self.copies = check_copies("copies", copies)
        self.num_envs = copies * len(self.tasks)
        self.workers = min(worker_count(workers, "train"), self.num_envs)
        self.seed = check_integer("seed", seed, at_most=MAX_SEED)
        self._stagger = check_flag("stagger", stagger)
        self._envs: TaskVectorEnv | None = None
        self._goals = np.full(self.num_envs, -1)
        """Goal of each row's running episode."""
        self._paused = np.zeros(self.num_envs, np.bool_)
        """Rows that have ended in the last step and start the next episode in the coming one."""
        self._everywhere = np.ones(self.num_envs, np.bool_)
        low = np.full(suite.observation_size, -np.inf, np.float32)
        low[suite.base_observation_size :] = 0.0
        high = np.where(low == 0, 1.0, np.inf).astype(np.float32)
        self.single_observation_space = Box(low, high, dtype=np.float32)
        self.single_action_space = Box(-1.0, 1.0, (suite.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Start a new episode everywhere.

        Args:
            seed: start as new environments of this seed do; None: go on with the next goals.
            options: none are known.

        Raises:
            ConfigError: a seed that is not one integer from 0 to 2³² − 1, or an option.
            WorkerError: a simulator raised or a worker was lost.
        """
        if options:
            raise ConfigError(
                f"options={options} are not supported: leave them out.", "options", options
            )
        if self.closed:
            raise ClosedEnvironmentError("reset on closed environments: make new ones.")
        if seed is not None:
            hint = "(one seed for all rows, each of which has its own random stream)"
            self.seed = check_integer("seed", seed, at_most=MAX_SEED, hint=hint)
        observations, infos = self._seeded(restart=seed is not None).reset()
        self._goals = infos["goal"].copy()
        return observations, self._masked({"goal": infos["goal"]})

    def _seeded(self, restart: bool) -> TaskVectorEnv:
        """Return simulators of the current seed, at the beginning of their streams if `restart`."""
        if self._envs is not None and self._envs.seeds != (self.seed,):
            self._envs.close()
            self._envs = None
        if self._envs is None:
            self._envs = TaskVectorEnv(
                self.suite,
                (self.seed,),
                self.workers,
                timeout=STEP_SECONDS,
                copies=self.copies,
                stagger=self._stagger,
            )
        elif restart:
            self._envs.restart_streams()
        self._pause(self._envs, np.zeros_like(self._paused))
        return self._envs

    def _pause(self, envs: TaskVectorEnv, rows: NDArray[np.bool_]) -> None:
        """Pause these rows in the coming step, and no others."""
        if rows.any() or self._paused.any():
            envs.pause(np.flatnonzero(rows).tolist())
        self._paused = rows

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all rows.

        Raises:
            ClosedEnvironmentError: after `close`.
            ResetNeeded: before the first reset.
            ValueError: actions of another shape, or not finite.
            WorkerError: a simulator raised or a worker was lost.
        """
        if self.closed:
            raise ClosedEnvironmentError("step on closed environments: make new ones.")
        if self._envs is None:
            raise ResetNeeded("step before the first reset: call reset first.")
        observations, rewards, terminated, truncated, given = self._envs.step(actions)
        ended, played = terminated | truncated, self._goals
        self._goals = given["goal"].copy()
        if self._same_step:
            infos = self._masked({"success": given["success"], "goal": given["goal"]})
            if ended.any():
                infos |= self._finals(ended, played, given)
            return observations, rewards, terminated, truncated, infos
        self._pause(self._envs, ended)
        # The last step of an episode is one of its goal, and the observation its last one.
        infos = self._masked(
            {"success": given["success"], "goal": np.where(ended, played, self._goals)}
        )
        if ended.any():
            infos |= _masked({"success_once": given["episode"]["s"] & ended}, ended)
        return given["final_obs"], rewards, terminated, truncated, infos

    def _finals(self, ended: NDArray[np.bool_], played: NDArray[np.int64], given: Infos) -> Infos:
        """Return `final_obs` and `final_info` of the rows whose episode `ended`."""
        observations = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            observations[row] = given["final_obs"][row]
        episode = {name: np.where(ended, given["episode"][name], 0) for name in ("r", "l")}
        final = {
            "success": given["success"] & ended,
            "success_once": given["episode"]["s"] & ended,
            "goal": np.where(ended, played, -1),
            "episode": _masked(episode, ended),
        }
        return _masked({"final_obs": observations, "final_info": _masked(final, ended)}, ended)

    def _masked(self, infos: Infos) -> Infos:
        return _masked(infos, self._everywhere)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the simulators; Gymnasium's `close` calls this once."""
        if self._envs is not None:
            self._envs.close(**kwargs)
            self._envs = None

    def __enter__(self) -> Self:
        """Return self; the environment is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the environment."""
        self.close()


def _masked(infos: Infos, rows: NDArray[np.bool_]) -> Infos:
    """Return `infos` with, for each entry, a mask of the rows that have it."""
    return infos | {f"_{name}": rows.copy() for name in infos}
