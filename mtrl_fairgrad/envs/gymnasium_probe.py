"""What Gymnasium's registered environments are like, found by making each once, and which cannot be
trained on.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBE_STEPS = 1000
"""Longest look at an episode of random actions, which tells whether infos speak of success."""
SUCCESS_KEYS = ("success", "is_success")
"""Where infos say whether a step is a success, in this order."""


@dataclass(frozen=True)
class TaskSpec:
    """One task: an environment's id and options, and what an agent has to know of it."""

    name: str
    id: str
    options: dict[str, Any]
    horizon: int
    """Most steps of an episode."""
    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    success: str | float
    """The entry of a step's info that says whether the step is one, or the return from which on an
    episode is one.
    """
    repeats: bool
    """Whether an episode came out the same twice, from the same reset seed and actions."""

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
    """The tasks' names: an environment's id, with its options in brackets where it has any.

    `tasks` are ids, or already names with the same `options`. ValueError when there are none, when
    `options` are not as many, or when a name comes twice.
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
    """`Pendulum-v1(g=5)` for `Pendulum-v1`, or for itself, with the options g=5."""
    identity, bracket, _ = task.partition("(")
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in options.items()
    ]
    name = f"{identity}({','.join(words)})" if words else identity
    if bracket and task != name:
        raise ValueError(
            f"env.tasks names {task}, but options go to env.task_options: give the id {identity} alone."
        )
    return name


def describe(
    tasks: Sequence[str] | None,
    options: Sequence[Mapping[str, Any]] | None,
    horizon: int | None,
    thresholds: Sequence[float | None],
) -> tuple[TaskSpec, ...]:
    """Make each task's environment once and play a few steps.

    Args:
        tasks: as of `gymnasium_names`.
        options: keyword arguments of each task's environment.
        horizon: most steps of an episode; None: the environments' own time limits.
        thresholds: of each task, the return from which on an episode is a success; None: as the
            environment says.

    Raises:
        ValueError: one sentence on what cannot be made or trained on; for a task that is not like
            the first, how.
    """
    names = gymnasium_names(tasks, options)
    found = tuple(
        _inspect(name, json.dumps(dict(given), sort_keys=True), horizon, threshold)
        for name, given, threshold in zip(
            names, options or [{}] * len(names), thresholds, strict=True
        )
    )
    first = found[0]
    for other in found[1:]:
        for what in ("observation", "action"):
            shape, expected = getattr(other, f"{what}_shape"), getattr(first, f"{what}_shape")
            if shape != expected:
                raise ValueError(
                    f"{what}s of task {other.name} have shape {list(shape)} and those of "
                    f"{first.name} {list(expected)}: one agent needs equal ones, so leave one of "
                    "them out or wrap it."
                )
    return found


def make(identity: str, options: Mapping[str, Any]) -> Any:
    """Gymnasium's environment; raises whatever it likes.

    `MODULE:ID` imports that module first, which runs its code: as safe as the one who named it.
    """
    import gymnasium

    return gymnasium.make(identity, **{"disable_env_checker": True, **options})


@functools.cache
def _inspect(name: str, encoded: str, horizon: int | None, threshold: float | None) -> TaskSpec:
    identity, options = name.partition("(")[0], json.loads(encoded)
    try:
        environment = make(identity, options)
    # the registry, missing packages and constructors raise whatever they like
    except Exception as error:
        raise ValueError(
            f"task {name} cannot be made ({_first_line(error)}): {_remedy(error)}."
        ) from None
    try:
        low, _ = action_bounds(name, environment)
        limits = [
            steps for steps in (environment.spec.max_episode_steps, horizon) if steps is not None
        ]
        if not limits:
            raise ValueError(f"task {name} has no time limit of its own: add env.horizon=STEPS.")
        keys, repeats = _play_twice(name, environment, min(limits))
        told = next((key for key in SUCCESS_KEYS if key in keys), environment.spec.reward_threshold)
        success = told if threshold is None else threshold
        if success is None:
            raise ValueError(
                f"task {name} says neither in its infos (success, is_success) nor by a reward "
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
        return "choose an id of gymnasium.pprint_registry(), or MODULE:ID to import the module that registers it"
    return "correct its id or its env.task_options"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def action_bounds(name: str, environment: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest action; ValueError unless spaces are boxes and these real, finite and
    different.
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
    """Which keys infos held in an episode of random actions, and whether the episode repeated
    itself.
    """
    try:
        keys, first = _play(environment, min(horizon, PROBE_STEPS))
        _, second = _play(environment, len(first) - 1)
    except Exception as error:  # an environment raises whatever it likes
        raise ValueError(
            f"task {name} failed in an episode of random actions ({_first_line(error)}): correct "
            "it, or choose another."
        ) from None
    return keys, len(first) == len(second) and all(map(np.array_equal, first, second))


def _play(environment: Any, steps: int) -> tuple[set[str], list[NDArray[Any]]]:
    """The keys of infos, and each observation with its reward, of at most `steps` steps."""
    generator, space = np.random.default_rng(0), environment.action_space
    observation, _ = environment.reset(seed=0)
    keys, course = set(), [np.append(observation, 0.0)]
    for _ in range(steps):
        action = generator.uniform(space.low, space.high).astype(space.dtype)
        observation, reward, terminated, truncated, info = environment.step(action)
        keys |= set(info)
        course.append(np.append(observation, float(reward)))
        if terminated or truncated:
            break
    return keys, course


def parse_success_return(given: Any, tasks: int) -> list[float | None]:
    """`env.success_return`, a number for all tasks or a list with a number or null for each, as a
    list.

    ValueError for anything else.
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
