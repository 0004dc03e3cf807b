"""Interface of a suite of tasks, and the course of episodes that all suites' tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.rng import stream


class Transition(NamedTuple):
    """Result of a step: reward, how the episode ended if it did, success of the step."""

    reward: float
    terminated: bool
    truncated: bool
    success: bool


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """A set of tasks with equal spaces, and how to simulate them.

    A suite is pickled and sent to the worker processes, so it stays small. A *goal* identifies an
    episode of a task: an integer from 0 to `goal_count` - 1.
    """

    tasks: tuple[str, ...]
    """Names, in the order of the one-hot identity."""
    one_hot: bool = True
    """Whether the task's one-hot identity follows each observation."""

    @property
    def ends_at_success(self) -> bool:
        """Whether an episode ends at its first success, so that its whole return is unknown."""
        return False

    replays: ClassVar[bool] = False
    """Whether a running episode can be saved, by its actions. If not, only its start can."""
    goal_count: ClassVar[int]

    @property
    def one_hot_size(self) -> int:
        """Length of the one-hot identity; 0 without it."""
        return len(self.tasks) if self.one_hot else 0

    @property
    def observation_size(self) -> int:
        """Length of an observation, one-hot identity included."""
        return self.base_observation_size + self.one_hot_size

    @property
    @abstractmethod
    def base_observation_size(self) -> int:
        """Length of an observation without the one-hot identity."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """Length of an action, whose entries are in [-1, 1]."""

    @abstractmethod
    def make(
        self, task: str, seed: int, identity: int, role: str, drawing: bool = False
    ) -> "SubEnvironment":
        """Create the simulator of one task of one seed; it may raise anything.

        With `drawing` it supports `render`.
        """

    @abstractmethod
    def goals(self, seed: int, task: str) -> NDArray[np.int64]:
        """Return all goals that an evaluation may play, each once; int64 [E], E >= 1."""

    def check_state(self, row: dict[str, Any]) -> None:  # noqa: B027 (most suites save no more)
        """Check that `SubEnvironment.set_state` accepts a saved row.

        Raises:
            TypeError, KeyError, ValueError: it does not.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree, in addition to tasks and seeds, for a saved state to be valid.

        JSON-serialisable.
        """

    @abstractmethod
    def protocol(self) -> dict[str, str]:
        """Describe in words what a success rate means, beyond what the configuration states."""

    def warnings(self) -> list[str]:
        """Return start-up warnings, one sentence each."""
        return []


class SubEnvironment(ABC):
    """One task of one seed.

    `observation` float32 [O] always holds the latest observation. In training each episode draws
    its goal from the sub-environment's own random stream; with `play` it goes through a list of
    goals and then idles.
    """

    environment: Any
    """The simulator."""

    def __init__(self, task: str, seed: int, identity: int, suite: Suite, role: str) -> None:
        self.task, self.seed = task, seed
        self.goal, self.elapsed = -1, 0
        self.returned, self.succeeded = 0.0, False
        """Return of the running episode (undiscounted), and whether any of its steps succeeded."""
        self.returned_until_success, self.elapsed_until_success = 0.0, 0
        """Return and steps up to the first success, which are those so far without one."""
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
        """Play exactly these goals, one per episode, then idle; None draws goals without end."""
        self._queue = None if goals is None else list(goals)
        self.begin()

    def place(self, generator: dict[str, Any] | None, drawn: int) -> None:
        """Restore the random stream and advance it.

        Args:
            generator: saved state of the stream; None for its initial state.
            drawn: number of goals drawn since then.
        """
        self._generator.bit_generator.state = self._beginning if generator is None else generator
        for _ in range(drawn):
            self._next_goal()

    def begin(self) -> None:
        """Start the next episode and write its first observation; idle when no goal is left."""
        if self._queue is None:
            self._enter(self._next_goal())
        elif self._queue:
            self._enter(self._queue.pop(0))
        else:
            self.goal, self.elapsed = -1, 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Simulate one step with `action` float32 [A], clipped to [-1, 1]; never resets."""
        self.elapsed += 1
        transition = self._simulate(action)
        self.returned += transition.reward
        if not self.succeeded:
            self.returned_until_success, self.elapsed_until_success = self.returned, self.elapsed
        self.succeeded |= transition.success
        return transition

    def get_state(self) -> dict[str, Any]:
        """Return the random stream and the goal, JSON-serialisable.

        Complete at the first step of an episode.
        """
        return {"goal": self.goal, "generator": self._generator.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> bool:
        """Restore what `get_state` returned; False if the simulator did not reproduce it.

        NumPy raises if the stream's state is malformed.
        """
        self._queue = None
        self._generator.bit_generator.state = state["generator"]
        self._enter(state["goal"])
        return True

    def render(self) -> NDArray[np.uint8]:
        """Return the current picture, uint8 [height, width, 3]; requires `drawing`."""
        return self.environment.render()

    @property
    @abstractmethod
    def steps_per_second(self) -> int:
        """Steps per second of simulated time."""

    def _enter(self, goal: int) -> None:
        self._base_observation[:] = self._start(goal)
        self.goal, self.elapsed, self.returned, self.succeeded = goal, 0, 0.0, False
        self.returned_until_success, self.elapsed_until_success = 0.0, 0

    @abstractmethod
    def _next_goal(self) -> int:
        """Draw the goal of the next training episode from `_generator`."""

    @abstractmethod
    def _start(self, goal: int) -> NDArray[Any]:
        """Reset the simulator to `goal` and return the first observation."""

    @abstractmethod
    def _simulate(self, action: NDArray[np.float32]) -> Transition:
        """Simulate the `elapsed`-th step; write the observation to `_base_observation`."""
