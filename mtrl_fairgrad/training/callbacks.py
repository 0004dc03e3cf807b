"""Callbacks of a training run: they are told what happens and cannot change it.

A callback is any object with some of the methods `on_step`, `on_update`, `on_evaluation` and
`on_checkpoint`, each of which takes one event. Events hold copies, so writing into them changes
nothing, and training draws from generators of its own, so drawing or seeding random numbers
changes nothing either. An exception of a callback ends the run, which can then be resumed from its
last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.utils.validation import ConfigError

HOOKS = ("on_step", "on_update", "on_evaluation", "on_checkpoint")


@dataclass(frozen=True)
class Event:
    """What all events hold."""

    env_steps: int
    """Transitions of each task so far."""
    seeds: tuple[int, ...]
    """The run's seeds, in the order of the axis S."""
    tasks: tuple[str, ...]
    """Names, in the order of the axis K."""
    run_dir: Path


@dataclass(frozen=True)
class StepEvent(Event):
    """A vector step, stored in the replay buffer; E is the number of simulators of a task.

    With several simulators, half of the transitions were begun in the step before.
    """

    observations: NDArray[np.float32]
    """Before the step, `[S, E, K, O]`."""
    actions: NDArray[np.float32]
    """`[S, E, K, A]`."""
    rewards: NDArray[np.floating]
    """`[S, E, K]`."""
    next_observations: NDArray[np.float32]
    """After the step, those of an ended episode included, `[S, E, K, O]`."""
    terminated: NDArray[np.bool_]
    """`[S, E, K]`."""
    truncated: NDArray[np.bool_]
    """`[S, E, K]`."""


@dataclass(frozen=True)
class UpdateEvent(Event):
    """The latest update, once every `log_every` env_steps."""

    updates: int
    """Number of updates so far."""
    metrics: Mapping[str, NDArray[np.floating]]
    """What the log is made of, by name, such as `critic/loss` `[S, K]`, `critic/gradient_norm`
    `[S]` or `critic/gramian` `[S, K, K]`.
    """


@dataclass(frozen=True)
class EvaluationEvent(Event):
    """A finished evaluation of the policy that trained until `env_steps`."""

    episodes: int
    """Episodes of each task and seed."""
    success: NDArray[np.floating]
    """Success rates `[S, K]`, in [0, 1]."""
    returns: NDArray[np.floating]
    """Mean undiscounted returns `[S, K]`; NaN where episodes end at their first success."""
    returns_until_success: NDArray[np.floating]
    """Mean undiscounted returns up to the first success, `[S, K]`."""

    @property
    def mean_success(self) -> float:
        """Mean success rate over seeds and tasks."""
        return float(self.success.mean())


@dataclass(frozen=True)
class CheckpointEvent(Event):
    """A checkpoint that was written completely."""

    path: Path
    """Its folder; older checkpoints of the run are deleted in time."""


class CallbackError(Exception):
    """Holds what a callback raised, which is not taken for an error of the same type of training.

    Args:
        error: what it raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Callbacks:
    """The callbacks of a run; without one that wants an event, it costs nothing.

    Args:
        callbacks: objects with some of the methods of `HOOKS`.

    Raises:
        ConfigError: this is no list, or an object has none of them.
    """

    def __init__(self, callbacks: Sequence[object] = ()) -> None:
        if not isinstance(callbacks, (list, tuple)):
            raise _refusal(callbacks)
        for callback in callbacks:
            usable = any(callable(getattr(callback, hook, None)) for hook in HOOKS)
            if isinstance(callback, type) or not usable:
                raise _refusal(callback)
        self._of_hook = {
            hook: [call for each in callbacks if callable(call := getattr(each, hook, None))]
            for hook in HOOKS
        }

    def wants(self, hook: str) -> bool:
        """Whether a callback has this method."""
        return bool(self._of_hook[hook])

    def call(self, hook: str, make_event: Callable[[], Event]) -> None:
        """Call the method of every callback that has it, each with an event of its own.

        Raises:
            CallbackError: one has raised an exception.
        """
        for call in self._of_hook[hook]:
            event = make_event()
            try:
                call(event)
            except Exception as error:
                raise CallbackError(error) from error


def _refusal(value: object) -> ConfigError:
    return ConfigError(
        f"callbacks={value!r} is not allowed: give a list of objects with some of the methods "
        f"{', '.join(HOOKS)}.",
        "callbacks",
        value,
    )


def copied(array: Any) -> NDArray[Any]:
    """Return a copy that cannot be written to."""
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
