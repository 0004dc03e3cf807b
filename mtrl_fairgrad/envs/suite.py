"""Interface of a suite of tasks, and the course of episodes that all suites' tasks share."""

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.rng import stream
from mtrl_fairgrad.utils.encoded_arrays import decode_numbers, encode_array
from mtrl_fairgrad.utils.validation import check_integer


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

    @property
    def repeats(self) -> bool:
        """Whether an episode is reproduced from its goal and actions, so that it can be moved."""
        return True

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
    def horizon_of(self, task: str) -> int:
        """Return the time limit of a task's episodes in steps."""

    @abstractmethod
    def make(
        self,
        task: str,
        seed: int,
        identity: int,
        role: str,
        drawing: int = 0,
        copy: int = 0,
    ) -> "SubEnvironment":
        """Create a simulator of one task of one seed; it may raise anything.

        Args:
            task: name.
            seed: the run's seed.
            identity: index of the task.
            role: `train` or `eval`.
            drawing: side of the pictures of `render` in pixels, where the environment lets it be
                chosen; 0 if it is not used.
            copy: which of the task's simulators it is; each draws goals of its own.
        """

    @abstractmethod
    def goals(self, seed: int, task: str) -> NDArray[np.int64]:
        """Return all goals that an evaluation may play, each once; int64 [E], E >= 1."""

    def check_state(self, row: dict[str, Any]) -> None:
        """Check that `SubEnvironment.set_state` accepts a saved row.

        Raises:
            TypeError, KeyError, ValueError: it does not.
        """
        if row.keys() == {"goal", "generator"}:  # of an older version, at an episode's first step
            return
        horizon = self.horizon_of(row["task"])
        limit = check_integer("limit", row.get("limit", horizon), at_least=1, at_most=horizon)
        taken, left_over = divmod(decode_numbers(row["actions"], "f4").size, self.action_size)
        seen = decode_numbers(row["observation"], "f4").size
        whole = left_over == 0 and seen == self.base_observation_size
        if not (whole and taken < limit and isinstance(row["returned"], float)):
            raise ValueError("no whole actions of a running episode, no observation, or no return")

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
    """A simulator of one task of one seed.

    `observation` float32 [O] always holds the latest observation. In training each episode draws
    its goal from the sub-environment's own random stream; with `play` it goes through a list of
    goals and then idles.

    An episode depends on its goal and its actions alone: a reset is bit-identical in a new and in a
    used simulator, and nothing in it draws random numbers. So a running training episode is saved
    as these, and restored by repeating them.
    """

    environment: Any
    """The simulator."""
    first_share: float = 1.0
    """Length of the first training episode, as a share of the time limit, in (0, 1]."""
    paused: bool = False
    """Whether steps leave it as it is, see `TaskVectorEnv.pause`."""

    def __init__(
        self, task: str, seed: int, identity: int, suite: Suite, role: str, copy: int = 0
    ) -> None:
        self.task, self.seed = task, seed
        self.goal, self.elapsed = -1, 0
        self._horizon = self.limit = suite.horizon_of(task)
        """Steps after which the running episode is truncated."""
        self._action_size = suite.action_size
        self._actions = bytearray()
        """Actions of the running training episode, float32, as they were given."""
        self.returned, self.succeeded = 0.0, False
        """Return of the running episode (undiscounted), and whether any of its steps succeeded."""
        self.returned_until_success, self.elapsed_until_success = 0.0, 0
        """Return and steps up to the first success, which are those so far without one."""
        self.observation = np.zeros(suite.observation_size, np.float32)
        self._base_observation = self.observation[: suite.base_observation_size]
        if suite.one_hot_size:
            self.observation[suite.base_observation_size + identity] = 1.0
        # Copy 0 has the stream of a run without copies.
        self._generator = stream(seed, task, role, *([copy] if copy else []))
        self._beginning = self._generator.bit_generator.state
        self._queue: list[int] | None = None

    @property
    def idle(self) -> bool:
        """Whether steps simulate nothing: all goals given to `play` are done, or it is paused."""
        return self.goal < 0 or self.paused

    def play(self, goals: Sequence[int] | None) -> None:
        """Play exactly these goals, one per episode, then idle; None draws goals without end.

        The first of endlessly many episodes is shortened to `first_share`.
        """
        self._queue = None if goals is None else list(goals)
        self.begin()
        if self._queue is None:
            self.limit = math.ceil(self._horizon * self.first_share)

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
        if self._queue is None:
            self._actions += np.asarray(action, "<f4").tobytes()
        transition = self._simulate(action)
        self.returned += transition.reward
        if not self.succeeded:
            self.returned_until_success, self.elapsed_until_success = self.returned, self.elapsed
        self.succeeded |= transition.success
        return transition

    def get_state(self) -> dict[str, Any]:
        """Return the random stream, and the running training episode with its result so far.

        Actions and observation are bytes of float32; the rest is JSON-serialisable.
        """
        return {
            "task": self.task,
            "goal": self.goal,
            "generator": self._generator.bit_generator.state,
            "limit": self.limit,
            "actions": bytes(self._actions),
            "observation": encode_array(self._base_observation),
            "returned": self.returned,
        }

    def set_state(self, state: dict[str, Any]) -> bool:
        """Repeat the running episode of `get_state`; False if it came out differently.

        NumPy raises if the stream's state is malformed.
        """
        self._queue = None
        self._generator.bit_generator.state = state["generator"]
        self._enter(state["goal"])
        if "actions" not in state:  # of an older version, at an episode's first step
            return True
        self.limit = state.get("limit", self._horizon)
        for action in decode_numbers(state["actions"], "f4").reshape(-1, self._action_size):
            transition = self.step(action)
            if transition.terminated or transition.truncated:
                return False
        # Bit by bit, since NaN differs from itself.
        observation = decode_numbers(state["observation"], "f4")
        return encode_array(observation) == encode_array(self._base_observation) and (
            struct.pack("d", self.returned) == struct.pack("d", state["returned"])
        )

    def render(self) -> NDArray[np.uint8]:
        """Return the current picture, uint8 [height, width, 3]; requires `drawing`."""
        return self.environment.render()

    @property
    @abstractmethod
    def steps_per_second(self) -> int:
        """Steps per second of simulated time."""

    def _enter(self, goal: int) -> None:
        self._actions.clear()
        self.limit = self._horizon
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
