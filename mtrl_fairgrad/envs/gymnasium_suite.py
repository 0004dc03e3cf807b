"""Gymnasium's registered environments as a suite, if their spaces are boxes of equal shapes.

A goal is the seed of a reset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs import gymnasium_probe
from mtrl_fairgrad.envs.gymnasium_probe import TaskSpec
from mtrl_fairgrad.envs.rng import stream
from mtrl_fairgrad.envs.suite import SubEnvironment, Suite, Transition

EVALUATION_RESETS = 50
"""Reset seeds that evaluations play for each (seed, task); as many as Meta-World's goals."""


@dataclass(frozen=True, kw_only=True)
class GymnasiumSuite(Suite):
    """Registered environments, created by `gymnasium_suite`."""

    specs: tuple[TaskSpec, ...]
    """In the order of `tasks`."""

    goal_count: ClassVar[int] = 2**31

    @property
    def base_observation_size(self) -> int:
        """Length of a flattened observation, without the one-hot identity."""
        return prod(self.specs[0].observation_shape)

    @property
    def action_size(self) -> int:
        """Length of a flattened action."""
        return prod(self.specs[0].action_shape)

    @property
    def repeats(self) -> bool:
        """Whether all tasks reproduced an episode when they were inspected."""
        return all(each.repeats for each in self.specs)

    def horizon_of(self, task: str) -> int:
        """Return the time limit of a task's episodes in steps."""
        return self._spec_of(task).horizon

    def _spec_of(self, task: str) -> TaskSpec:
        return self.specs[self.tasks.index(task)]

    def make(
        self,
        task: str,
        seed: int,
        identity: int,
        role: str,
        drawing: int = 0,
        copy: int = 0,
    ) -> "GymnasiumTask":
        """Create the environment of one task."""
        return GymnasiumTask(self._spec_of(task), seed, identity, self, role, drawing, copy)

    def goals(self, seed: int, task: str) -> NDArray[np.int64]:
        """Return 50 reset seeds."""
        return stream(seed, task, "resets").integers(self.goal_count, size=EVALUATION_RESETS)

    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree for a saved state to be valid."""
        first = self.specs[0]
        shapes = f"observations {list(first.observation_shape)}, actions {list(first.action_shape)}"
        tasks = {
            each.name: f"{each.horizon} steps, {each.success_rule}, {shapes}" for each in self.specs
        }
        return {
            "one_hot": self.one_hot,
            **tasks,
            **{name: version(name) for name in ("gymnasium", "mujoco")},
        }

    def protocol(self) -> dict[str, str]:
        """Describe the success rate in words; per task where tasks differ."""
        steps = [str(each.horizon) for each in self.specs]
        success = [each.success_rule for each in self.specs]
        return {
            "simulators": f"Gymnasium's {', '.join(self.tasks)}",
            "episode_steps": _one_or_all(steps),
            "success": _one_or_all(success),
        }

    def warnings(self) -> list[str]:
        """Name the tasks whose episodes are not reproducible: their runs cannot be resumed."""
        return [
            f"task {each.name} does not repeat an episode from the same reset seed and actions, so "
            "a run with it cannot be resumed"
            for each in self.specs
            if not each.repeats
        ]


def _one_or_all(words: list[str]) -> str:
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def gymnasium_suite(
    tasks: Sequence[str] | None,
    options: Sequence[Mapping[str, Any]] | None = None,
    horizon: int | None = None,
    success_return: Any = None,
    one_hot: bool = True,
) -> GymnasiumSuite:
    """Create the suite of these environments; each is made once to inspect it.

    Args:
        tasks: ids of Gymnasium's registry; `MODULE:ID` imports that module first, which runs its
            code.
        options: keyword arguments of each task's environment.
        horizon: maximum episode length in steps; None: the environments' own time limits.
        success_return: return from which an episode is a success, for all tasks or a list; None:
            `success` or `is_success` of infos in any step, else the environment's reward threshold.
        one_hot: whether the task's one-hot identity follows each observation.

    Raises:
        ValueError: a task cannot be made or trained on.
    """
    names = gymnasium_probe.gymnasium_names(tasks, options)
    thresholds = gymnasium_probe.parse_success_return(success_return, len(names))
    specs = gymnasium_probe.describe(names, options, horizon, thresholds)
    return GymnasiumSuite(tasks=names, one_hot=one_hot, specs=specs)


class GymnasiumTask(SubEnvironment):
    """One task of one seed: scales actions from [-1, 1], flattens observations.

    Success by return is decided at the last step of an episode, since the return may still fall
    before.
    """

    def __init__(
        self,
        spec: TaskSpec,
        seed: int,
        identity: int,
        suite: GymnasiumSuite,
        role: str,
        drawing: int = 0,
        copy: int = 0,
    ) -> None:
        self._spec, self._goals = spec, suite.goal_count
        drawn = {"render_mode": "rgb_array"} if drawing else {}
        self.environment = gymnasium_probe.make(spec.id, {**spec.options, **drawn})
        self._space = self.environment.action_space
        low, high = gymnasium_probe.action_bounds(spec.name, self.environment)
        self._centre, self._reach = (low + high) / 2, (high - low) / 2
        super().__init__(spec.name, seed, identity, suite, role, copy)

    def _next_goal(self) -> int:
        return int(self._generator.integers(self._goals))

    def _start(self, goal: int) -> NDArray[Any]:
        return self._flat(self.environment.reset(seed=goal)[0])

    def _simulate(self, action: NDArray[np.float32]) -> Transition:
        observation, reward, terminated, truncated, info = self.environment.step(
            self._own_units(action)
        )
        self._base_observation[:] = self._flat(observation)
        truncated = bool(truncated) or self.elapsed >= self.limit
        success = self._succeeds(float(reward), terminated or truncated, info)
        return Transition(float(reward), bool(terminated), truncated, success)

    def _flat(self, observation: Any) -> NDArray[Any]:
        return gymnasium_probe.flat_observation(observation, self._spec.observation_shape)

    def _own_units(self, action: NDArray[np.float32]) -> NDArray[Any]:
        inside = np.clip(action, -1.0, 1.0).reshape(self._centre.shape)
        scaled = (self._centre + self._reach * inside).astype(self._space.dtype)
        # Rounding may exceed a bound.
        return np.clip(scaled, self._space.low, self._space.high)

    def _succeeds(self, reward: float, ended: bool, info: dict[str, Any]) -> bool:
        rule = self._spec.success
        if isinstance(rule, str):
            return float(info.get(rule) or 0.0) >= 1.0
        return bool(ended and self.returned + reward >= rule)

    @property
    def steps_per_second(self) -> int:
        """Steps per second of simulated time."""
        return int(self.environment.metadata.get("render_fps", 30))
