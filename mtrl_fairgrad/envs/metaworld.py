"""Meta-World as a suite: each task's official environment, with goals and streams of each seed."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.metaworld_fast import reason_unverified
from mtrl_fairgrad.envs.rng import stream
from mtrl_fairgrad.envs.suite import SubEnvironment, Suite, Transition
from mtrl_fairgrad.envs.task_names import MT10, check_tasks
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.utils.validation import check_choice, check_flag, check_integer

GOALS = 50
"""Goals of a task, as in `metaworld.MT1(task, seed).train_tasks`."""
OBSERVATION_SIZE = 39
"""Length of a full observation."""
ACTION_SIZE = 4
HORIZON = 500
"""Meta-World's own episode length in steps; the official environments raise beyond it."""

OBSERVATIONS = {
    "full": tuple(range(OBSERVATION_SIZE)),
    "hand_objects_goal": (*range(3), *range(4, 7), *range(11, 14), *range(36, 39)),
}
"""Entries of an observation that the agent sees: all, or, as in 2021, the positions of hand, first
and second object and goal, without gripper opening, rotations and the previous step.
"""

DRAWING = {"render_mode": "rgb_array", "camera_name": "corner2"}


@dataclass(frozen=True, kw_only=True)
class MetaworldSuite(Suite):
    """Tasks of Meta-World.

    Args:
        horizon: episode length in steps, 1 to 500.
        reward_version: "v2" (0 to 10 per step) or "v1" (older, unbounded).
        terminate_on_success: whether an episode ends at its first success.
        goal_choice: "random": each training episode draws one of the 50 goals; "frozen": one goal
            for each (seed, task), drawn once, in training and evaluation.
        observation: a key of `OBSERVATIONS`.
        fast: use the environments of `envs.metaworld_fast`, which return the same numbers, with the
            versions for which that is verified.

    Raises:
        ValueError: an argument that the official environments would ignore.
    """

    tasks: tuple[str, ...] = MT10
    horizon: int = HORIZON
    reward_version: str = "v2"
    terminate_on_success: bool = False
    goal_choice: str = "random"
    observation: str = "full"
    fast: bool = True

    goal_count: ClassVar[int] = GOALS

    def __post_init__(self) -> None:
        check_tasks(self.tasks)
        hint = f"(Metaworld's environments refuse more than {HORIZON} steps)"
        check_integer("horizon", self.horizon, at_least=1, at_most=HORIZON, hint=hint)
        # Metaworld silently treats every unknown version, such as 'v3', as v1.
        check_choice("reward_version", self.reward_version, ("v2", "v1"))
        check_choice("goal_choice", self.goal_choice, ("random", "frozen"))
        check_choice("observation", self.observation, OBSERVATIONS)
        check_flag("terminate_on_success", self.terminate_on_success)
        check_flag("fast", self.fast)

    @property
    def base_observation_size(self) -> int:
        """Length of an observation without the one-hot identity."""
        return len(OBSERVATIONS[self.observation])

    @property
    def action_size(self) -> int:
        """Movement of the hand in three directions, and the gripper."""
        return ACTION_SIZE

    @property
    def ends_at_success(self) -> bool:
        """Whether an episode ends at its first success."""
        return self.terminate_on_success

    @property
    def seen(self) -> slice | list[int]:
        """Index of the agent's entries in Meta-World's observation."""
        return slice(None) if self.observation == "full" else list(OBSERVATIONS[self.observation])

    def horizon_of(self, task: str) -> int:
        """Return the time limit of episodes in steps."""
        return self.horizon

    def make(
        self,
        task: str,
        seed: int,
        identity: int,
        role: str,
        drawing: int = 0,
        copy: int = 0,
    ) -> "MetaworldTask":
        """Create a simulator of one task; takes about 0.25 s, mostly for the model's XML."""
        return MetaworldTask(task, seed, identity, self, role, drawing, copy)

    def goals(self, seed: int, task: str) -> NDArray[np.int64]:
        """Return all 50 goals, or the frozen one."""
        if self.goal_choice == "frozen":
            return np.array([stream(seed, task, "frozen").integers(GOALS)], np.int64)
        return np.arange(GOALS, dtype=np.int64)

    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree for a saved state to be valid."""
        return {
            "horizon": self.horizon,
            "one_hot": self.one_hot,
            "reward_version": self.reward_version,
            "terminate_on_success": self.terminate_on_success,
            "goal_choice": self.goal_choice,
            "observation": self.observation,
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
        }

    def protocol(self) -> dict[str, str]:
        """Describe the success rate in words."""
        return {"simulators": "Meta-World v3", "success": "any step"}

    def warnings(self) -> list[str]:
        """State why the simulators are slow, if they need not be."""
        reason = reason_unverified() if self.fast else None
        return [] if reason is None else [reason]


class MetaworldTask(SubEnvironment):
    """A simulator of one task of one seed.

    With a fixed goal Meta-World draws no random numbers (neither `np_random` nor the spaces'
    generators).
    """

    def __init__(
        self,
        task: str,
        seed: int,
        identity: int,
        suite: MetaworldSuite,
        role: str,
        drawing: int = 0,
        copy: int = 0,
    ) -> None:
        options = {**DRAWING, "width": drawing, "height": drawing} if drawing else {}
        self.environment = _environment(task, suite.fast)(
            reward_function_version=suite.reward_version, **options
        )
        self._suite, self._seen = suite, suite.seen
        self._goals = official_goals(self.environment, task, seed)
        super().__init__(task, seed, identity, suite, role, copy)

    def _next_goal(self) -> int:
        if self._suite.goal_choice == "frozen":
            return int(self._suite.goals(self.seed, self.task)[0])
        return int(self._generator.integers(GOALS))

    def _start(self, goal: int) -> NDArray[Any]:
        self.environment.set_task(self._goals[goal])
        return self.environment.reset()[0][self._seen]

    def _simulate(self, action: NDArray[np.float32]) -> Transition:
        observation, reward, _, _, info = self.environment.step(action)
        self._base_observation[:] = observation[self._seen]
        success = bool(info["success"] == 1.0)
        terminated = success and self._suite.terminate_on_success
        return Transition(float(reward), terminated, self.elapsed >= self.limit, success)

    @property
    def steps_per_second(self) -> int:
        """Steps per second of simulated time."""
        return int(1 / self.environment.dt)

    def render(self) -> NDArray[np.uint8]:
        """Return the picture of a corner camera, rotated, because Meta-World's is upside down."""
        return np.rot90(self.environment.render(), k=2)


class MetaworldVectorEnv(TaskVectorEnv):
    """`TaskVectorEnv` of Metaworld's tasks; the arguments are its and `MetaworldSuite`'s."""

    def __init__(
        self,
        tasks: Sequence[str],
        seeds: Sequence[int],
        workers: int | None = None,
        horizon: int = HORIZON,
        one_hot: bool = True,
        reward_version: str = "v2",
        terminate_on_success: bool = False,
        role: str = "train",
        goal_choice: str = "random",
        observation: str = "full",
        fast: bool = True,
    ) -> None:
        suite = MetaworldSuite(
            tasks=tuple(tasks),
            one_hot=one_hot,
            horizon=horizon,
            reward_version=reward_version,
            terminate_on_success=terminate_on_success,
            goal_choice=goal_choice,
            observation=observation,
            fast=fast,
        )
        super().__init__(suite, seeds, workers, role)


def _environment(task: str, fast: bool) -> Any:
    """Return the class of a task's simulator."""
    # Imported here, because Meta-World takes a second.
    if fast and reason_unverified() is None:
        from mtrl_fairgrad.envs.metaworld_fast.environment import fast_environment

        return fast_environment(task)
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return ALL_V3_ENVIRONMENTS[task]


def official_goals(environment: Any, task: str, seed: int) -> list[Any]:
    """Return the 50 goals of `metaworld.MT1(task, seed).train_tasks`, drawn with `environment`.

    MT1 draws a goal in each reset, which first moves the hand to its place in 50 simulated steps:
    0.8 s for a task. The rejection of goals that are too close looks at nothing but the drawn
    numbers, so one step is enough here (a test compares all tasks); a RandomState of ours in place
    of NumPy's global one gives the same numbers.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    own_generator = environment.np_random
    environment.np_random = np.random.RandomState(seed)
    environment.seeded_rand_vec, environment._freeze_rand_vec, environment._set_task_called = (
        True,
        False,
        True,
    )
    environment._reset_hand = partial(environment._reset_hand, steps=1)
    goals = []
    for _ in range(GOALS):
        environment.reset()
        # Metaworld passes a goal as pickled bytes; these never leave the process.
        data = {
            "env_cls": ALL_V3_ENVIRONMENTS[task],
            "rand_vec": environment._last_rand_vec,
            "partially_observable": False,
        }
        goals.append(Task(env_name=task, data=pickle.dumps(data)))
    del environment._reset_hand
    environment.np_random, environment.seeded_rand_vec = own_generator, False
    return goals
