"""One sub-environment: Metaworld's official environment of one task, with goals and stream of one seed."""

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GOALS = 50
"""Goals of a task, as in `metaworld.MT1(task, seed).train_tasks`."""
OBSERVATION_SIZE = 39
"""Numbers in an observation without the one-hot task identity."""
ACTION_SIZE = 4
HORIZON = 500
"""Metaworld's own episode length in steps; the official environments refuse to go on after it."""

ROLES = {"train": 0, "eval": 1, "goals": 2}
"""Random streams of one (seed, task); `goals` is the one that evaluation goals are drawn from."""


def stream(seed: int, task: str, role: str, *more: int) -> np.random.Generator:
    """The generator that belongs to (seed, task, role, *more*) and to nothing else that runs beside it."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(task.encode()), ROLES[role], *more]))


@dataclass(frozen=True)
class Settings:
    """What all sub-environments of a vector environment share.

    `horizon` is in steps, 1 to 500; `reward_version` is "v2" (0 to 10 a step) or "v1" (Metaworld's older,
    unbounded one); `identities` is the length of the one-hot task identity behind an observation, 0 for none.
    """

    horizon: int = HORIZON
    reward_version: str = "v2"
    terminate_on_success: bool = False
    identities: int = 0

    @property
    def observation_size(self) -> int:
        """Numbers in an observation, one-hot identity included."""
        return OBSERVATION_SIZE + self.identities


class Transition(NamedTuple):
    """What one step gave: the reward, how the episode ended if it did, whether the step counts as success."""

    reward: float
    terminated: bool
    truncated: bool
    success: bool


@dataclass
class SubEnvironment:
    """One task of one seed.

    `observation` float32 [39 (+ identities)] always holds the latest one. In training each episode draws its
    goal from the sub-environment's own stream; with `play` it goes through a list of goals and then idles.
    """

    task: str
    seed: int
    identity: int
    settings: Settings
    role: str
    goal: int = field(default=-1, init=False)
    elapsed: int = field(default=0, init=False)
    _queue: list[int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Build the official environment and its goals: about 0.25 s, of which the model's XML takes most."""
        # Metaworld takes a second to import: only who builds an environment pays for it.
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.environment: Any = ALL_V3_ENVIRONMENTS[self.task](reward_function_version=self.settings.reward_version)
        self._goals = official_goals(self.environment, self.task, self.seed)
        self._generator = stream(self.seed, self.task, self.role)
        self.observation = np.zeros(self.settings.observation_size, np.float32)
        if self.settings.identities:
            self.observation[OBSERVATION_SIZE + self.identity] = 1.0

    @property
    def idle(self) -> bool:
        """Whether all goals given to `play` are done, so that steps simulate nothing."""
        return self.goal < 0

    def play(self, goals: Sequence[int] | None) -> None:
        """Start playing exactly these goals, one an episode, then idle; None draws goals for ever."""
        self._queue = None if goals is None else list(goals)
        self.begin()

    def begin(self) -> None:
        """Start the next episode: `observation` becomes its first one, or stays when no goal is left."""
        if self._queue is None:
            self._start(int(self._generator.integers(GOALS)))
        elif self._queue:
            self._start(self._queue.pop(0))
        else:
            self.goal, self.elapsed = -1, 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Simulate one step with `action` float32 [4], clipped to [−1, 1] by Metaworld; never resets."""
        observation, reward, _, _, info = self.environment.step(action)
        self.observation[:OBSERVATION_SIZE] = observation
        self.elapsed += 1
        success = bool(info["success"] == 1.0)
        terminated = success and self.settings.terminate_on_success
        return Transition(float(reward), terminated, self.elapsed >= self.settings.horizon, success)

    def get_state(self) -> dict[str, Any]:
        """The random stream and the goal, JSON-serialisable; complete at the first step of an episode.

        A reset is bit-identical in a fresh and in a used environment, and with a fixed goal Metaworld draws
        no numbers of its own (neither `np_random` nor the spaces' generators), so the simulator has nothing
        to add.
        """
        return {"goal": self.goal, "generator": self._generator.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Start the episode that `get_state` was called in; NumPy raises when the stream is malformed."""
        self._queue = None
        self._generator.bit_generator.state = state["generator"]
        self._start(state["goal"])

    def _start(self, goal: int) -> None:
        self.environment.set_task(self._goals[goal])
        observation, _ = self.environment.reset()
        self.observation[:OBSERVATION_SIZE] = observation
        self.goal, self.elapsed = goal, 0


def official_goals(environment: Any, task: str, seed: int) -> list[Any]:
    """The 50 `metaworld.types.Task` of `metaworld.MT1(task, seed).train_tasks`, drawn with `environment`.

    MT1 draws a goal in each reset, which first moves the hand to its place in 50 simulated steps: 0.8 s for a
    task. The rejection of goals that are too close looks at nothing but the drawn numbers, so one step is
    enough here (a test compares all tasks); a RandomState of ours in place of NumPy's global one gives the
    same numbers.
    """
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
            "env_cls": type(environment),
            "rand_vec": environment._last_rand_vec,
            "partially_observable": False,
        }
        goals.append(Task(env_name=task, data=pickle.dumps(data)))
    del environment._reset_hand
    environment.np_random, environment.seeded_rand_vec = own_generator, False
    return goals
