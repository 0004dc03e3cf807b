"""Configuration of environments and evaluation, and its cross-field checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from mtrl_fairgrad.utils.safe_load import MAX_DEPTH, is_readable
from mtrl_fairgrad.utils.validation import (
    MAX_NAME,
    MAX_WORKERS,
    ConfigError,
    check_copies,
    check_integer,
    option,
)

SUITE_OF = {
    "mt10": "mt10",
    "mt50": "mt50",
    "mt1": "mt1",
    "mt10_paper": "mt10",
    "mt50_paper": "mt50",
    "gymnasium": "gymnasium",
}
"""Protocol → suite."""

METAWORLD_GOALS = 50
"""Goals of each Meta-World task."""
METAWORLD_HORIZON = 500
"""Longest episode of Meta-World's environments, in steps."""
METAWORLD_CHOICES = ("reward_version", "goals", "observation")
"""Options of Meta-World's suites that must be null for Gymnasium's environments."""


@dataclass
class EnvConfig:
    """The training environments, which define the protocol behind every reported number."""

    name: str = option("mt10", "Name of the protocol, shown in every result.")
    suite: str = option("mt10", "Set of tasks: mt10, mt50, mt1 or gymnasium.")
    tasks: list[str] | None = option(
        None,
        "Subset of the suite's tasks, in this order; null: all. "
        "With env=gymnasium: registered ids, or MODULE:ID.",
    )
    task: str | None = option(None, "The task of env=mt1.")
    task_options: Any = option(
        None,
        "env=gymnasium: keyword arguments of each task's environment, "
        "a list with one mapping per task; null: none.",
    )
    horizon: int | None = option(
        METAWORLD_HORIZON,
        "Episode length, 1 to 500. With env=gymnasium: an upper limit; "
        "null: the environments' own limits.",
        at_least=1,
        unit="steps",
    )
    train_horizon: int | None = option(
        None,
        "Episode length in training, if it differs from env.horizon, which evaluations then keep; "
        "null: env.horizon.",
        at_least=1,
        unit="steps",
    )
    copies: int = option(
        1,
        "Simulators of each task and seed in training: 1, or an even number, of which one half "
        "simulates while the policy acts for the other. Each has goals of its own, and a vector "
        "step takes a step of all.",
        at_least=1,
        at_most=1024,
    )
    stagger: bool = option(
        False,
        "Shorten the first episodes of the copies, so that their ends are spread evenly over the "
        "time limit.",
    )
    one_hot: bool = option(True, "Append the one-hot task identity to observations.")
    reward_version: str | None = option(
        "v2",
        "Meta-World's reward functions: v2, or v1 as in 2021; null with env=gymnasium.",
        choices=("v2", "v1"),
    )
    goals: str | None = option(
        "random",
        "random: each episode draws one of a task's 50 goals; "
        "frozen: one goal per task and seed; null with env=gymnasium.",
        choices=("random", "frozen"),
    )
    observation: str | None = option(
        "full",
        "full: 39 numbers; hand_objects_goal: the 12 positions of 2021; null with env=gymnasium.",
        choices=("full", "hand_objects_goal"),
    )
    success_return: Any = option(
        None,
        "env=gymnasium: an episode succeeds when its return reaches this value, one for all tasks "
        "or a list; null: as the infos report (success, is_success), "
        "else the environments' reward thresholds.",
    )
    fast: bool | None = option(
        True,
        "Use the reimplemented simulators, about three times as fast as Metaworld's and "
        "bit-identical; null with env=gymnasium.",
    )
    workers: int | None = option(
        None,
        "Simulator processes; 0: simulate in the learner's process; null: all cores but one.",
        at_least=0,
        at_most=MAX_WORKERS,
    )
    worker_timeout: float | None = option(
        60.0,
        "Time limit of one step in training or evaluation, after which a simulator process counts "
        "as hung and is replaced; null: no limit.",
        above=0,
        unit="seconds",
    )
    worker_restarts: int = option(
        10,
        "Simulator processes that a run may replace, resumed parts included, before it stops.",
        at_least=0,
    )


@dataclass
class EvalConfig:
    """When and how success is measured."""

    every: int = option(
        10_000,
        "Transitions of each task between evaluations; the first is before training.",
        at_least=1,
        unit="env_steps",
    )
    episodes: int = option(
        10,
        "Episodes per task, each with another goal; 1 where goals are frozen. "
        "The final evaluation plays all 50 goals.",
        at_least=1,
        at_most=METAWORLD_GOALS,
    )
    full_episodes: bool = option(
        True,
        "Play evaluation episodes to their end, to record their whole return. false: end "
        "Meta-World's at the first success, which saves time and changes no success rate, but "
        "leaves `return` empty; `return_until_success` is recorded in either case.",
    )
    workers: int | None = option(
        None,
        "Simulator processes of the evaluation; null: one per core.",
        at_least=0,
        at_most=MAX_WORKERS,
    )
    background: bool = option(
        True,
        "Continue training during an evaluation, with the same numbers; "
        "not with workers=0, nor at the end of training.",
    )


def check_env(env: EnvConfig, evaluation: EvalConfig) -> None:
    """Check combinations of fields; task names are checked on look-up.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    if SUITE_OF.get(env.name) != env.suite:
        raise ConfigError(
            f"env.suite={env.suite} would be reported as {env.name}: "
            f"choose env={env.suite} instead.",
            "env.suite",
            env.suite,
        )
    check_copies("env.copies", env.copies)
    if env.suite == "gymnasium":
        _check_gymnasium(env)
    else:
        _check_metaworld(env, evaluation)


def _check_gymnasium(env: EnvConfig) -> None:
    for name in (*METAWORLD_CHOICES, "fast", "task"):
        if getattr(env, name) is not None:
            raise _wrong_suite(env, name, "Meta-World")
    options: Any = [] if env.task_options is None else env.task_options
    if not isinstance(options, list) or not all(
        isinstance(mapping, dict) for mapping in cast(list[Any], options)
    ):
        raise ConfigError(
            f"env.task_options={options} is not allowed: give a list with one mapping per task, "
            "as in [{g: 5},{}].",
            "env.task_options",
            env.task_options,
        )
    # A run folder could not be read again otherwise; this is below the list in `env`.
    if not all(is_readable(mapping, MAX_DEPTH - 3) for mapping in cast(list[Any], options)):
        raise ConfigError(
            f"env.task_options={options} is not allowed: give words as keys, and words, numbers, "
            f"true, false, null or lists and mappings of them, of at most {MAX_DEPTH - 4} levels.",
            "env.task_options",
            env.task_options,
        )


def _check_metaworld(env: EnvConfig, evaluation: EvalConfig) -> None:
    for name in ("task_options", "success_return"):
        if getattr(env, name) is not None:
            raise _wrong_suite(env, name, "env=gymnasium")
    for name in (*METAWORLD_CHOICES, "fast", "horizon"):
        if getattr(env, name) is None:
            raise ConfigError(
                f"env.{name}=null is only for env=gymnasium: give env={env.name} a value.",
                f"env.{name}",
                None,
            )
    check_integer("env.horizon", env.horizon, at_least=1, at_most=METAWORLD_HORIZON)
    if env.train_horizon is not None:
        limit = METAWORLD_HORIZON
        check_integer("env.train_horizon", env.train_horizon, at_least=1, at_most=limit)
    if env.goals == "frozen" and evaluation.episodes != 1:
        raise ConfigError(
            f"eval.episodes={evaluation.episodes} would repeat one episode, since env.goals=frozen "
            "has one goal per task: give eval.episodes=1.",
            "eval.episodes",
            evaluation.episodes,
        )


def _wrong_suite(env: EnvConfig, name: str, owner: str) -> ConfigError:
    value = getattr(env, name)
    message = f"env.{name}={value} is only for {owner}: drop it, since env={env.name} was chosen."
    return ConfigError(message, f"env.{name}", value)


def task_names(env: EnvConfig) -> tuple[str, ...]:
    """Return the names of a run's tasks, in order, without importing simulators.

    Raises:
        ConfigError: unknown suite or task.
    """
    from mtrl_fairgrad.envs.gymnasium_probe import gymnasium_names
    from mtrl_fairgrad.envs.task_names import resolve_tasks

    try:
        if env.suite == "gymnasium":
            names = gymnasium_names(env.tasks, env.task_options)
        else:
            names = resolve_tasks(env.suite, tasks=env.tasks, task=env.task)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in names:
        if len(name) > MAX_NAME:
            raise ConfigError(
                f"the name of the task {name[:40]}… has {len(name):,} characters with its options, "
                f"and at most {MAX_NAME:,} can be read again: give it shorter env.task_options.",
                "env.task_options",
                env.task_options,
            )
    return names
