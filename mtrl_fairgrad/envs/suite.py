"""What a suite of tasks has to say of itself, and the course of episodes that every suite's tasks
share.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.rng import stream


class Transition(NamedTuple):
    """What one step gave: the reward, how the episode ended if it did, whether the step counts as
    success.
    """

    reward: float
    terminated: bool
    truncated: bool
    success: bool


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """A set of tasks with equal spaces, and how to simulate them; small, since it travels to the
    worker processes.

    A *goal* is what tells an episode of a task from another one: an integer from 0 to `goal_count`
    − 1.
    """

    tasks: tuple[str, ...]
    """Names, in the order of the one-hot identity."""
    one_hot: bool = True
    """Whether the task's one-hot identity follows each observation."""

    replays: ClassVar[bool] = False
    """Whether a running episode can be saved, by its actions; if not, only the beginning of one
    can.
    """
    goal_count: ClassVar[int]

    @property
    def one_hot_size(self) -> int:
        """Length of the one-hot identity, 0 without."""
        return len(self.tasks) if self.one_hot else 0

    @property
    def observation_size(self) -> int:
        """Numbers in an observation, one-hot identity included."""
        return self.base_observation_size + self.one_hot_size

    @property
    @abstractmethod
    def base_observation_size(self) -> int:
        """Numbers in an observation without the one-hot identity."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """Numbers in an action, each in [−1, 1]."""

    @abstractmethod
    def make(
        self, task: str, seed: int, identity: int, role: str, drawing: bool = False
    ) -> "SubEnvironment":
        """The simulator of one task of one seed, `drawing` if it can give a `picture`; it may raise
        anything.
        """

    @abstractmethod
    def goals(self, seed: int, task: str) -> NDArray[np.int64]:
        """All goals that an evaluation may play, each once; int64 [E], E ≥ 1."""

    def check_state(self, row: dict[str, Any]) -> None:  # noqa: B027 (most suites save no more)
        """Raise TypeError, KeyError or ValueError unless a saved row holds what
        `SubEnvironment.set_state` needs.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What must agree, beside tasks and seeds, for a saved state to mean the same episodes;
        JSON-serialisable.
        """

    @abstractmethod
    def protocol(self) -> dict[str, str]:
        """What a success rate means here, as far as the configuration does not tell, in words."""

    def warnings(self) -> list[str]:
        """What a user should know and might not expect, a sentence each."""
        return []


class SubEnvironment(ABC):
    """One task of one seed.

    `observation` float32 [O] always holds the latest one. In training each episode draws its goal
    from the sub-environment's own stream; with `play` it goes through a list of goals and then
    idles.
    """

    environment: Any
    """The simulator itself."""

    def __init__(self, task: str, seed: int, identity: int, suite: Suite, role: str) -> None:
        self.task, self.seed = task, seed
        self.goal, self.elapsed = -1, 0
        self.returned, self.succeeded = 0.0, False
        """Undiscounted sum of rewards of the running episode, and whether any of its steps was a
        success.
        """
        self.observation = np.zeros(suite.observation_size, np.float32)
        self._base_observation = self.observation[: suite.base_observation_size]
        if suite.one_hot_size:
            self.observation[suite.base_observation_size + identity] = 1.0
        self._generator = stream(seed, task, role)
        self._beginning = self._generator.bit_generator.state
        self._queue: list[int] | None = None

    @property
    def idle(self) -> bool:
        """Whether all goals given to `play` are done, so that steps simulate nothing."""
        return self.goal < 0

    def play(self, goals: Sequence[int] | None) -> None:
        """Start playing exactly these goals, one an episode, then idle; None draws goals for ever."""
        self._queue = None if goals is None else list(goals)
        self.begin()

    def place(self, generator: dict[str, Any] | None, drawn: int) -> None:
        """Set the random stream to a saved state (None: its beginning) and draw as many goals as
        were drawn since.
        """
        self._generator.bit_generator.state = self._beginning if generator is None else generator
        for _ in range(drawn):
            self._next_goal()

    def begin(self) -> None:
        """Start the next episode: `observation` becomes its first one, or stays when no goal is
        left.
        """
        if self._queue is None:
            self._enter(self._next_goal())
        elif self._queue:
            self._enter(self._queue.pop(0))
        else:
            self.goal, self.elapsed = -1, 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Simulate one step with `action` float32 [A], in [−1, 1] or clipped to it; never resets."""
        self.elapsed += 1
        found = self._simulate(action)
        self.returned += found.reward
        self.succeeded |= found.success
        return found

    def get_state(self) -> dict[str, Any]:
        """The random stream and the goal, JSON-serialisable; complete at the first step of an
        episode.
        """
        return {"goal": self.goal, "generator": self._generator.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> bool:
        """Go back to where `get_state` was called; False where the simulator led elsewhere.

        NumPy raises when the stream is malformed.
        """
        self._queue = None
        self._generator.bit_generator.state = state["generator"]
        self._enter(state["goal"])
        return True

    def render(self) -> NDArray[np.uint8]:
        """The simulator as it stands, [height, width, 3]; only if it was made for drawing."""
        return self.environment.render()

    @property
    @abstractmethod
    def steps_per_second(self) -> int:
        """Steps in a second of the simulated world."""

    def _enter(self, goal: int) -> None:
        self._base_observation[:] = self._start(goal)
        self.goal, self.elapsed, self.returned, self.succeeded = goal, 0, 0.0, False

    @abstractmethod
    def _next_goal(self) -> int:
        """The goal of the next episode of training, from `_generator`."""

    @abstractmethod
    def _start(self, goal: int) -> NDArray[Any]:
        """Reset the simulator to `goal`; the episode's first observation."""

    @abstractmethod
    def _simulate(self, action: NDArray[np.float32]) -> Transition:
        """One step of the simulator, the episode's `elapsed`-th; writes its observation to `_base_observation`."""
