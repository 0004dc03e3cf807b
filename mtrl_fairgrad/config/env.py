"""What is trained on and how success is measured: the configuration of environments and evaluation,
and its checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from mtrl_fairgrad.utils.validation import ConfigError, one_of, positive, within

SUITE_OF = {
    "mt10": "mt10",
    "mt50": "mt50",
    "mt1": "mt1",
    "mt10_paper": "mt10",
    "mt50_paper": "mt50",
    "gymnasium": "gymnasium",
}
"""Each protocol's suite."""

METAWORLDS = {
    "reward_version": ("v2", "v1"),
    "goals": ("random", "frozen"),
    "observation": ("full", "hand_objects_goal"),
}
"""Options of Meta-World's suites, null for others, and their words."""


@dataclass
class EnvConfig:
    """What is trained on, and so the protocol of every number a run reports."""

    name: str = "mt10"
    """The protocol's name; stands in every result."""
    suite: str = "mt10"
    """mt10, mt50, mt1, or gymnasium."""
    tasks: list[str] | None = None
    """Only these of the suite's tasks, in this order; null: all. Of gymnasium: ids of its registry,
    or MODULE:ID.
    """
    task: str | None = None
    """The one task of mt1."""
    task_options: Any = None
    """Of gymnasium: keyword arguments of each task's environment, a list with a mapping for each
    task; null: none.
    """
    horizon: int | None = 500
    """Steps of an episode, 1 to 500; of gymnasium: at most so many, null: the environments' own
    time limits.
    """
    one_hot: bool = True
    """Append the one-hot task id to observations."""
    reward_version: str | None = "v2"
    """v2, or v1 as in 2021; null for gymnasium."""
    goals: str | None = "random"
    """random: each episode another of a task's 50; frozen: one for each task and seed; null for
    gymnasium.
    """
    observation: str | None = "full"
    """full: 39 numbers; hand_objects_goal: 12, the positions, as in 2021; null for gymnasium."""
    success_return: Any = None
    """Of gymnasium: the return from which on an episode is a success, for all tasks or a list;
    null: as infos say (success, is_success), else the environments' reward thresholds."""
    fast: bool | None = True
    """Simulators about three times as fast as Metaworld's own code, whose numbers they give to the
    last bit; null for gymnasium."""
    workers: int | None = None
    """Simulator processes; 0: inside the learner's process; null: the cores less one."""
    worker_timeout: float | None = 60.0
    """Seconds for a step of training or evaluation, after which a simulator process counts as hung
    and is replaced like one that died; null: any."""
    worker_restarts: int = 10
    """How many simulator processes a run replaces, resumed or not; one more stops it."""


@dataclass
class EvalConfig:
    """When and how success is measured."""

    every: int = 10_000
    """Vector steps between evaluations; there is one before training, too."""
    episodes: int = 10
    """Episodes per task then, 1 to 50, each with another goal; the last evaluation plays all 50
    goals. 1 where goals are frozen."""
    workers: int | None = None
    """Simulator processes of the evaluation; null: one per core."""
    background: bool = True
    """Train on meanwhile; the numbers are the same. Not with workers=0, nor at the end of training.
    """


def check_env(env: EnvConfig, evaluation: EvalConfig) -> None:
    """Refuse what contradicts itself or has no meaning; tasks are checked where they are looked up.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    if SUITE_OF.get(env.name) != env.suite:
        raise ConfigError(
            f"env.suite={env.suite} would be reported as {env.name}: choose env={env.suite} "
            "instead."
        )
    within("eval.every", evaluation.every, 1)
    within("eval.episodes", evaluation.episodes, 1, 50)
    if env.suite == "gymnasium":
        _check_gymnasium(env)
    else:
        _check_metaworld(env, evaluation)
    for name, workers in (("env.workers", env.workers), ("eval.workers", evaluation.workers)):
        if workers is not None:
            within(name, workers, 0, 1024)
    if env.worker_timeout is not None:
        positive("env.worker_timeout", env.worker_timeout, "or null")
    within("env.worker_restarts", env.worker_restarts, 0)


def _check_gymnasium(env: EnvConfig) -> None:
    for key in (*METAWORLDS, "fast", "task"):
        if getattr(env, key) is not None:
            raise ConfigError(
                f"env.{key}={getattr(env, key)} is Meta-World's and env=gymnasium has none: drop "
                "it."
            )
    if env.horizon is not None:
        within("env.horizon", env.horizon, 1)
    options: Any = [] if env.task_options is None else env.task_options
    if not isinstance(options, list) or not all(
        isinstance(each, dict) for each in cast(list[Any], options)
    ):
        raise ConfigError(
            f"env.task_options={options} is no list with a mapping for each task: write it like "
            f"[{{g: 5}},{{}}]."
        )


def _check_metaworld(env: EnvConfig, evaluation: EvalConfig) -> None:
    for key, words in METAWORLDS.items():
        one_of(f"env.{key}", str(getattr(env, key)), words)
    for key in ("task_options", "success_return"):
        if getattr(env, key) is not None:
            raise ConfigError(
                f"env.{key}={getattr(env, key)} is for env=gymnasium: drop it for env={env.name}."
            )
    if env.fast is None:
        raise ConfigError(f"env.fast=null is for env=gymnasium: give env={env.name} true or false.")
    if env.horizon is None:
        raise ConfigError(
            f"env.horizon=null is for env=gymnasium: give env={env.name} steps from 1 to 500."
        )
    within("env.horizon", env.horizon, 1, 500)
    if env.goals == "frozen" and evaluation.episodes != 1:
        raise ConfigError(
            f"eval.episodes={evaluation.episodes} would repeat one episode, since env.goals=frozen "
            "has one goal for each task: give eval.episodes=1."
        )


def task_names(env: EnvConfig) -> tuple[str, ...]:
    """The names of a run's tasks, in order; imports no simulators.

    Raises:
        ConfigError: unknown suite or task.
    """
    from mtrl_fairgrad.envs import gymnasium_names, resolve_tasks

    try:
        if env.suite == "gymnasium":
            return gymnasium_names(env.tasks, env.task_options)
        return resolve_tasks(env.suite, tasks=env.tasks, task=env.task)
    except ValueError as error:
        raise ConfigError(str(error)) from None
