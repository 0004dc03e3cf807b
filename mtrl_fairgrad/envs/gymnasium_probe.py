"""Inspect Gymnasium's registered environments and reject those that cannot be trained on."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.utils.faults import first_line

PROBE_STEPS = 1000
"""Maximum length of the episode of random actions that tells whether infos report success."""
SUCCESS_KEYS = ("success", "is_success")
"""Entries of infos that report the success of a step, in this order."""


@dataclass(frozen=True)
class TaskSpec:
    """One task: an environment's id and options, and its properties."""

    name: str
    id: str
    options: dict[str, Any]
    horizon: int
    """Maximum episode length in steps."""
    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    success: str | float
    """Entry of a step's info that reports success, or the return from which an episode is one."""
    repeats: bool
    """Whether an episode was reproduced from the same reset seed and actions."""

    @property
    def success_rule(self) -> str:
        """What counts as success, in words."""
        return (
            f"{self.success} in any step"
            if isinstance(self.success, str)
            else f"return ≥ {self.success:g}"
        )


def gymnasium_names(
    tasks: Sequence[str] | None, options: Sequence[Mapping[str, Any]] | None
) -> tuple[str, ...]:
    """Return the tasks' names: an environment's id, with its options in brackets if any.

    `tasks` are ids, or names already made with the same `options`.

    Raises:
        ValueError: no tasks, a different number of `options`, or a duplicate name.
    """
    if not tasks:
        raise ValueError(
            "env=gymnasium needs to know its tasks: add env.tasks=[ID,…] with ids of Gymnasium's "
            "registry."
        )
    if options is not None and len(options) != len(tasks):
        raise ValueError(
            f"env.task_options has {len(options)} entries for {len(tasks)} tasks: give one for "
            f"each, {{}} for none."
        )
    names = tuple(map(_name, tasks, options or [{}] * len(tasks)))
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"env.tasks names {twice[0]} {names.count(twice[0])} times: give each once, or tell "
            "them apart by env.task_options."
        )
    return names


def _name(task: str, options: Mapping[str, Any]) -> str:
    """Return `Pendulum-v1(g=5)` for `Pendulum-v1`, or for itself, with the options g=5."""
    identity, bracket, _ = task.partition("(")
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in options.items()
    ]
    name = f"{identity}({','.join(words)})" if words else identity
    if bracket and task != name:
        raise ValueError(
            f"env.tasks names {task}, but options go to env.task_options: give the id {identity} "
            "alone."
        )
    return name


def describe(
    tasks: Sequence[str] | None,
    options: Sequence[Mapping[str, Any]] | None,
    horizon: int | None,
    thresholds: Sequence[float | None],
) -> tuple[TaskSpec, ...]:
    """Create each task's environment once and play a few steps.

    Args:
        tasks: as for `gymnasium_names`.
        options: keyword arguments of each task's environment.
        horizon: maximum episode length in steps; None: the environments' own time limits.
        thresholds: for each task, the return from which an episode is a success; None: as the
            environment specifies.

    Raises:
        ValueError: a task cannot be made or trained on, or its spaces differ from the first task's.
    """
    names = gymnasium_names(tasks, options)
    specs = tuple(
        _inspect(name, json.dumps(dict(given), sort_keys=True), horizon, threshold)
        for name, given, threshold in zip(
            names, options or [{}] * len(names), thresholds, strict=True
        )
    )
    first = specs[0]
    for other in specs[1:]:
        for what in ("observation", "action"):
            shape, expected = getattr(other, f"{what}_shape"), getattr(first, f"{what}_shape")
            if shape != expected:
                raise ValueError(
                    f"{what}s of task {other.name} have shape {list(shape)} and those of "
                    f"{first.name} {list(expected)}: one agent needs equal ones, so leave one of "
                    "them out or wrap it."
                )
    return specs


def make(identity: str, options: Mapping[str, Any]) -> Any:
    """Create Gymnasium's environment; may raise anything.

    `MODULE:ID` imports that module first, which runs its code.
    """
    import gymnasium

    return gymnasium.make(identity, **{"disable_env_checker": True, **options})


@functools.cache
def _inspect(name: str, encoded: str, horizon: int | None, threshold: float | None) -> TaskSpec:
    identity, options = name.partition("(")[0], json.loads(encoded)
    try:
        environment = make(identity, options)
    except Exception as error:  # registry, missing packages and constructors raise many types
        raise ValueError(
            f"task {name} cannot be made ({first_line(error)}): {_remedy(error)}."
        ) from None
    try:
        low, _ = action_bounds(name, environment)
        limits = [
            steps for steps in (environment.spec.max_episode_steps, horizon) if steps is not None
        ]
        if not limits:
            raise ValueError(f"task {name} has no time limit of its own: add env.horizon=STEPS.")
        keys, repeats = _play_twice(name, environment, min(limits))
        reported = next(
            (key for key in SUCCESS_KEYS if key in keys), environment.spec.reward_threshold
        )
        success = reported if threshold is None else threshold
        if success is None:
            raise ValueError(
                f"task {name} reports neither in its infos (success, is_success) nor by a reward "
                "threshold when it succeeds: add env.success_return=RETURN, from which on an "
                "episode is a success."
            )
        shape = tuple(environment.observation_space.shape)
        return TaskSpec(name, identity, options, min(limits), shape, low.shape, success, repeats)
    finally:
        environment.close()


def _remedy(error: Exception) -> str:
    from gymnasium.error import DependencyNotInstalled, UnregisteredEnv

    if isinstance(error, (ImportError, DependencyNotInstalled)):
        return "install what is missing, or choose another"
    if isinstance(error, UnregisteredEnv):
        return (
            "choose an id of gymnasium.pprint_registry(), or MODULE:ID to import the module that "
            "registers it"
        )
    return "correct its id or its env.task_options"


def action_bounds(name: str, environment: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and largest action.

    Raises:
        ValueError: a space is not a box, or the actions are not real, finite and of different
            bounds.
    """
    from gymnasium.spaces import Box

    for what in ("observation", "action"):
        space = getattr(environment, f"{what}_space")
        if not isinstance(space, Box):
            raise ValueError(
                f"task {name} has the {what} space {space} where a Box of numbers is needed: "
                "choose another task, or wrap it."
            )
    space = environment.action_space
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()
    if not (bounded and low.size and np.issubdtype(space.dtype, np.floating)):
        raise ValueError(
            f"task {name} has the action space {space} where real numbers between finite, "
            "different bounds are needed: choose another task, or wrap it."
        )
    return low, high


def _play_twice(name: str, environment: Any, horizon: int) -> tuple[set[str], bool]:
    """Play the same random actions twice; return the keys of infos and whether both agree."""
    try:
        keys, first = _play(environment, min(horizon, PROBE_STEPS))
        _, second = _play(environment, len(first) - 1)
    except Exception as error:  # environments raise many types
        raise ValueError(
            f"task {name} failed in an episode of random actions ({first_line(error)}): correct "
            "it, or choose another."
        ) from None
    # Byte by byte, since NaN differs from itself.
    return keys, [each.tobytes() for each in first] == [each.tobytes() for each in second]


def _play(environment: Any, steps: int) -> tuple[set[str], list[NDArray[Any]]]:
    """Return the keys of infos, and each observation with its reward, of at most `steps` steps."""
    generator, space = np.random.default_rng(0), environment.action_space
    shape = environment.observation_space.shape
    keys, course = set(), [np.append(flat_observation(environment.reset(seed=0)[0], shape), 0.0)]
    for _ in range(steps):
        action = generator.uniform(space.low, space.high).astype(space.dtype)
        observation, reward, terminated, truncated, info = environment.step(action)
        keys |= set(info)
        course.append(np.append(flat_observation(observation, shape), float(reward)))
        if terminated or truncated:
            break
    return keys, course


def flat_observation(observation: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an observation of this shape as a vector.

    Raises:
        ValueError: it has another shape, which NumPy might spread over the expected one.
    """
    array = np.asarray(observation)
    if array.shape != shape:
        raise ValueError(
            f"it observed an array of shape {list(array.shape)}, but its observation space has "
            f"shape {list(shape)}"
        )
    return array.ravel()


def parse_success_return(given: Any, tasks: int) -> list[float | None]:
    """Return `env.success_return` (a number, or a list with a number or null per task) as a list.

    Raises:
        ValueError: anything else.
    """
    values = list(given) if isinstance(given, (list, tuple)) else [given] * tasks
    sound = all(
        value is None
        or (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )
        for value in values
    )
    if not sound or len(values) != tasks:
        raise ValueError(
            f"env.success_return={given} does not fit {tasks} tasks: give one number for all, a "
            "list with a number or null for each, or null for what the environments say."
        )
    return [None if value is None else float(value) for value in values]
