"""Checks of user input: an invalid value raises `ConfigError`, one sentence with the fix.

Fields of configuration dataclasses declare help, bounds, choices and unit with `option`;
`validate_fields` checks a whole instance against them. Constructors of the library call the
`check_*` functions directly.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.utils.clean_text import clean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_COUNT = 10**15
"""Largest value of a counter; exact both as a 64-bit integer and as a float."""
MAX_NAME = 2000
"""Characters of the name of a task or metric; tables pad all rows to the longest."""
MAX_SEED = 2**32 - 1
"""Largest seed that NumPy's `RandomState`, and so Metaworld, accepts."""
MAX_WORKERS = 1024
"""Largest number of processes or threads."""
MAX_MESSAGE_LENGTH = 1000
"""Characters of an error message on the terminal."""
UNSET: Any = object()
"""Default of `ConfigError.value`: the error is not about one value."""


class ConfigError(ValueError):
    """A mistake in a configuration or argument: one sentence with the value and the fix.

    Attributes:
        key: dotted name of the option, such as `agent.width`; None if several are involved.
        value: the refused value; `UNSET` without a key.
    """

    def __init__(self, message: str, key: str | None = None, value: object = UNSET) -> None:
        super().__init__(message)
        self.key = key
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without `UNSET`, whose identity would be lost in another process."""
        known = () if self.value is UNSET else (self.value,)
        return type(self), (str(self), self.key, *known)

    def prefixed(self, prefix: str) -> ConfigError:
        """Return the same error with `prefix` before its key, as in `convention.` + `scale`."""
        if self.key is None:
            return self
        return ConfigError(f"{prefix}{self}", f"{prefix}{self.key}", self.value)


@dataclass(frozen=True)
class Bounds:
    """Interval of allowed numbers; NaN is never allowed."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    finite: bool = True

    def contains(self, value: float) -> bool:
        """Return whether `value` is inside."""
        if not math.isfinite(value) and (self.finite or math.isnan(value)):
            return False
        return (
            self.at_least <= value <= self.at_most
            and (value > self.above or self.above == -math.inf)
            and (value < self.below or self.below == math.inf)
        )

    def describe(self, noun: str) -> str:
        """Describe what is allowed, as in "an integer from 1 to 50"; `noun` has its article."""
        if math.isfinite(self.at_least) and math.isfinite(self.at_most):
            return f"{noun} from {_plain(self.at_least)} to {_plain(self.at_most)}"
        limits = {
            "of at least": self.at_least,
            "above": self.above,
            "of at most": self.at_most,
            "below": self.below,
        }
        shown = [
            f"{word} {_plain(limit)}" for word, limit in limits.items() if math.isfinite(limit)
        ]
        return f"{noun} {' and '.join(shown)}".rstrip()


def check_number(
    key: str,
    value: object,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    finite: bool = True,
    hint: str = "",
) -> float:
    """Return `value` as a float if it is a real number (no bool) within the bounds.

    Args:
        key: name of the option.
        value: what was given.
        at_least: closed lower bound.
        above: open lower bound.
        at_most: closed upper bound.
        below: open upper bound.
        finite: refuse infinities.
        hint: continues the sentence after what is allowed, such as "or null for no limit".

    Raises:
        ConfigError: otherwise.
    """
    bounds = Bounds(at_least, above, at_most, below, finite)
    if isinstance(value, Real) and not isinstance(value, bool) and bounds.contains(float(value)):
        return float(value)
    noun = "a finite number" if finite and math.isinf(at_most) and math.isinf(below) else "a number"
    raise _refusal(key, value, bounds.describe(noun), hint)


def check_integer(
    key: str,
    value: object,
    *,
    at_least: int = 0,
    at_most: int = MAX_COUNT,
    hint: str = "",
) -> int:
    """Return `value` as an int if it is an integer (no bool) from `at_least` to `at_most`.

    Raises:
        ConfigError: otherwise; `hint` as of `check_number`.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if at_least <= number <= at_most:
            return number
        if at_most == MAX_COUNT and number < at_least:  # do not mention the default maximum
            raise _refusal(key, value, Bounds(at_least).describe("an integer"), hint)
    shown = Bounds(at_least, at_most=math.inf if at_most == MAX_COUNT else at_most)
    if isinstance(value, Integral) and int(value) > at_most:
        shown = Bounds(at_least, at_most=at_most)
    raise _refusal(key, value, shown.describe("an integer"), hint)


def check_flag(key: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        ConfigError: otherwise.
    """
    if not isinstance(value, bool):
        raise _refusal(key, value, "true or false", "")
    return value


def check_choice(key: str, value: object, choices: Iterable[str], hint: str = "") -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        ConfigError: otherwise, with the most similar choice.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return value
    raise unknown_choice(key, value, choices, hint)


def unknown_choice(key: str, value: object, choices: Sequence[str], hint: str = "") -> ConfigError:
    """Return the error of a value that is none of `choices`, with the most similar choice."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    advice = hint or (f"did you mean {close[0]}?" if close else "choose one of them.")
    return ConfigError(
        f"{key}={value} is unknown; allowed: {', '.join(choices)}; {advice}", key, value
    )


def check_seeds(seeds: Sequence[object]) -> tuple[int, ...]:
    """Return the seeds if there is at least one, none is repeated and each is from 0 to 2³² − 1.

    Raises:
        ConfigError: otherwise.
    """
    if len(seeds) == 0:
        raise ConfigError(
            "seeds=[] is empty: give at least one seed, as in seeds=[0].", "seeds", []
        )
    checked = tuple(check_integer("seeds", seed, at_most=MAX_SEED) for seed in seeds)
    for seed in checked:
        if checked.count(seed) > 1:
            raise ConfigError(
                f"seeds={list(checked)} contains {seed} twice: each seed is one run, so give "
                "different ones.",
                "seeds",
                list(checked),
            )
    return checked


def check_copies(key: str, copies: int) -> int:
    """Return the number of simulators of each task if it is 1 or even.

    Raises:
        ConfigError: otherwise.
    """
    check_integer(key, copies, at_least=1)
    if copies > 1 and copies % 2:
        raise ConfigError(
            f"{key}={copies} is odd: give 1 or an even number, of which one half simulates while "
            "the policy acts for the other.",
            key,
            copies,
        )
    return copies


def check_device(name: str) -> str:
    """Return `name` if it is spelled like a device; whether the device exists is checked later.

    Raises:
        ConfigError: otherwise.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ConfigError(
            f"device={name} is unknown; allowed: auto, cpu, cuda, cuda:N.", "device", name
        )
    return name


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    finite: bool = True,
    choices: Sequence[str] = (),
    unit: str = "",
) -> Any:
    """Return a dataclass field that carries its help text, bounds, choices and unit as metadata.

    `None` is allowed where the annotation allows it. Bounds and choices of a list hold for each
    element.
    """
    metadata = {
        "help": help,
        "bounds": Bounds(at_least, above, at_most, below, finite),
        "choices": tuple(choices),
        "unit": unit,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def validate_fields(instance: DataclassInstance, prefix: str = "") -> None:
    """Check all fields made by `option`, those of nested dataclasses included.

    Args:
        instance: values of the declared types.
        prefix: goes before the names of the fields in messages, such as `agent.`.

    Raises:
        ConfigError: the first value that its field does not allow.
    """
    hints = field_types(type(instance))
    for field in dataclasses.fields(instance):
        key, value = f"{prefix}{field.name}", getattr(instance, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate_fields(value, f"{key}.")
        elif "bounds" in field.metadata:
            _validate(key, value, hints[field.name], field.metadata)


@functools.cache
def field_types(schema: type) -> dict[str, Any]:
    """Return name → type annotation, resolved, of a dataclass."""
    return typing.get_type_hints(schema)


def optional_type(annotation: Any) -> tuple[Any, bool]:
    """Split `T | None` into `T` and whether None is allowed."""
    if isinstance(annotation, types.UnionType):
        arguments = typing.get_args(annotation)
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            return kinds[0], len(kinds) < len(arguments)
    return annotation, annotation is Any


def _validate(key: str, value: Any, annotation: Any, metadata: typing.Mapping[str, Any]) -> None:
    kind, optional = optional_type(annotation)
    hint = "or null" if optional else ""
    bounds: Bounds = metadata["bounds"]
    if value is None and optional:
        return
    limited = bounds != Bounds() or metadata["choices"]
    if typing.get_origin(kind) is list and limited:
        for element in value or ():
            _validate(key, element, typing.get_args(kind)[0], metadata)
    elif metadata["choices"]:
        check_choice(key, value, metadata["choices"])
    elif kind is int:
        low = -MAX_COUNT if bounds.at_least == -math.inf else int(bounds.at_least)
        high = MAX_COUNT if bounds.at_most == math.inf else int(bounds.at_most)
        check_integer(key, value, at_least=low, at_most=high, hint=hint)
    elif kind is float:
        check_number(key, value, **dataclasses.asdict(bounds), hint=hint)


def bracket_depth(text: str) -> int:
    """Return the deepest nesting of brackets, which costs parsers time and stack."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    return deepest


def one_line(text: str) -> str:
    """Return `text` as one line for a terminal: control characters escaped, the middle cut out.

    Values come from anywhere and might otherwise clear the screen or fill it.
    """
    line = clean(text)
    half = MAX_MESSAGE_LENGTH // 2
    return line if len(line) <= MAX_MESSAGE_LENGTH else f"{line[:half]} … {line[-half:]}"


def _refusal(key: str, value: object, allowed: str, hint: str) -> ConfigError:
    return ConfigError(
        f"{key}={value!r} is not allowed: give {f'{allowed} {hint}'.rstrip()}.", key, value
    )


def _plain(number: float) -> str:
    return f"{number:.15g}"
