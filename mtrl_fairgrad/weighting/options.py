"""Hyper-parameters of methods as attributes that reject invalid values whenever they are set.

    class FairGrad(GramianWeighting):
        alpha = Number(at_least=0)

        def __init__(self, alpha: float = 2.0) -> None:
            super().__init__()
            self.alpha = alpha  # ConfigError: alpha=-1 is not allowed: …

An option states its bounds here and its default in the constructor, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from mtrl_fairgrad.utils.validation import (
    ConfigError,
    check_choice,
    check_flag,
    check_integer,
    check_number,
)

T = TypeVar("T")


class Option(Generic[T]):
    """A validated attribute of a method.

    It has no `__get__`, so that reading the attribute finds the value in the instance's dictionary
    at the usual speed.

    Args:
        key: name in messages; by default the attribute's name.
        hint: appended to what a message says is allowed.
        before_init: the state made by `Method.init` depends on the value, which cannot change
            afterwards.
    """

    def __init__(self, key: str = "", hint: str = "", before_init: bool = False) -> None:
        self.key, self.hint, self.before_init = key, hint, before_init

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.key = name, self.key or name

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: type) -> T: ...

    def __set__(self, instance: Any, value: T) -> None:
        checked = self.check(value)
        if self.before_init and instance.tasks is not None:
            raise ConfigError(
                f"{self.key}={value!r} is not allowed after init: make a new {instance.name}.",
                self.key,
                value,
            )
        vars(instance)[self.name] = checked

    def check(self, value: object) -> T:
        """Return the value in its type.

        Raises:
            ConfigError: it is not allowed.
        """
        raise NotImplementedError


class Number(Option[float]):
    """A finite number within bounds.

    Args:
        at_least: lower bound, included.
        above: lower bound, excluded.
        at_most: upper bound, included.
        below: upper bound, excluded.
        options: arguments of `Option`.
    """

    def __init__(
        self,
        *,
        at_least: float = -math.inf,
        above: float = -math.inf,
        at_most: float = math.inf,
        below: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.bounds = at_least, above, at_most, below

    def check(self, value: object) -> float:
        """Return the value in its type; see `Option.check`."""
        at_least, above, at_most, below = self.bounds
        return check_number(
            self.key,
            value,
            at_least=at_least,
            above=above,
            at_most=at_most,
            below=below,
            hint=self.hint,
        )


class NumberOrNone(Option[float | None]):
    """A finite number of at least `at_least`, or None; `options` are arguments of `Option`."""

    def __init__(self, *, at_least: float, **options: Any) -> None:
        super().__init__(**options)
        self.at_least = at_least

    def check(self, value: object) -> float | None:
        """Return the value in its type; see `Option.check`."""
        if value is None:
            return None
        return check_number(self.key, value, at_least=self.at_least, hint=self.hint)


class NumberPerTask(Option[float | Sequence[float]]):
    """A finite number for all tasks, or a sequence with one for each task, stored as a tuple.

    `options` are arguments of `Option`; `check_tasks` checks the length once K is known.
    """

    def check(self, value: object) -> float | Sequence[float]:
        """Return the value in its type; see `Option.check`."""
        several = isinstance(value, Sequence)
        values: Sequence[object] = cast(Sequence[object], value) if several else ()
        if not values:
            return check_number(self.key, value, hint="or a list with one for each task")
        return tuple(check_number(self.key, each) for each in values)


def check_tasks(key: str, value: float | Sequence[float], tasks: int) -> None:
    """Check that a sequence has one number for each of K tasks.

    Raises:
        ConfigError: it has another length.
    """
    if isinstance(value, Sequence) and len(value) != tasks:
        raise ConfigError(
            f"{key}={list(value)} has {len(value)} numbers for {tasks} tasks: give one number for "
            "each task, or one for all.",
            key,
            list(value),
        )


class Whole(Option[int]):
    """An integer of at least `at_least`; `options` are arguments of `Option`."""

    def __init__(self, *, at_least: int, **options: Any) -> None:
        super().__init__(**options)
        self.at_least = at_least

    def check(self, value: object) -> int:
        """Return the value in its type; see `Option.check`."""
        return check_integer(self.key, value, at_least=self.at_least, hint=self.hint)


class Choice(Option[str]):
    """One of the given words; `options` are arguments of `Option`."""

    def __init__(self, *words: str, **options: Any) -> None:
        super().__init__(**options)
        self.words = words

    def check(self, value: object) -> str:
        """Return the value in its type; see `Option.check`."""
        return check_choice(self.key, value, self.words, hint=self.hint)


class Flag(Option[bool]):
    """True or False."""

    def check(self, value: object) -> bool:
        """Return the value in its type; see `Option.check`."""
        return check_flag(self.key, value)
