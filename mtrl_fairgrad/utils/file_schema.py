"""Schemas of files: what a file holds is checked once, when it is read, and is relied upon after.

A schema is a type: bool, int, float, str, `list[T]`, `dict[str, T]`, `T | None`, a `Literal`, a
`TypedDict` or a dataclass, or `Any` for plain values. Numbers may have bounds, as in
`Annotated[int, Bounds(0)]`; the fields of a dataclass have those of their `option`. Keys that a
schema does not name are allowed, since other versions write others, and every field of a dataclass
may be missing.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Literal, cast

from mtrl_fairgrad.utils.validation import MAX_COUNT, Bounds, ConfigError

Count = Annotated[int, Bounds(0, at_most=MAX_COUNT)]
"""A counter."""
Rate = Annotated[float, Bounds(0, at_most=1)]
"""A share of episodes."""
Measured = Annotated[float, None]
"""A measured number, which may be infinite or NaN."""
_WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "text"}


def check_schema(value: object, schema: Any, key: str = "") -> None:
    """Check a plain value against a schema.

    Args:
        value: of a file.
        schema: a type as the module describes.
        key: dotted name of the value; empty for a whole file.

    Raises:
        ConfigError: the first value that differs, with what is allowed, in a clause for a sentence.
    """
    origin, parts = typing.get_origin(schema), typing.get_args(schema)
    if schema is Any:
        return
    if origin in (types.UnionType, typing.Union):
        _check_union(value, parts, key)
    elif origin is Literal:
        if value not in parts or isinstance(value, bool):
            raise refusal(key, value, " or ".join(map(str, parts)))
    elif origin is list:
        if not isinstance(value, list):
            raise refusal(key, value, "a list")
        for n, each in enumerate(cast(list[object], value)):
            check_schema(each, parts[0], f"{key}[{n}]")
    elif origin is dict:
        for name, each in _mapping(value, key).items():
            check_schema(each, parts[1], _dotted(key, name))
    elif dataclasses.is_dataclass(schema) or typing.is_typeddict(schema):
        _check_fields(_mapping(value, key), schema, key)
    else:
        kind, bounds = parts if origin is Annotated else (schema, Bounds())
        _check_leaf(value, kind, bounds, key)


def refusal(key: str, value: object, allowed: str) -> ConfigError:
    """Return the error of a value in a file; its text is a clause without a full stop."""
    name = f"{key}=" if key else ""
    return ConfigError(f"{name}{value!r:.200} is not {allowed}", key or None, value)


def _check_union(value: object, choices: tuple[Any, ...], key: str) -> None:
    if value is None and type(None) in choices:
        return
    errors: list[ConfigError] = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            check_schema(value, choice, key)
            return
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _check_fields(value: dict[str, object], schema: Any, key: str) -> None:
    kinds = _field_types(schema)
    required: typing.Iterable[str] = getattr(schema, "__required_keys__", ())
    for name in sorted(set(required) - value.keys()):
        raise ConfigError(f"{_dotted(key, name)} is missing", _dotted(key, name))
    options = (
        {field.name: field.metadata.get("bounds") for field in dataclasses.fields(schema)}
        if dataclasses.is_dataclass(schema)
        else {}
    )
    for name, each in value.items():
        if name in kinds:
            check_schema(each, _bounded(kinds[name], options.get(name)), _dotted(key, name))
        elif "." in name:  # it would stand for an option of a group
            raise refusal(_dotted(key, name), each, "a known key")


@functools.cache
def _field_types(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema, include_extras=True)


def _bounded(kind: Any, bounds: Bounds | None) -> Any:
    """Return a type with the bounds of an option, which hold for numbers and those of lists."""
    if bounds is None or kind is Any:
        return kind
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        made = _bounded(parts[0], bounds)
        for part in parts[1:]:
            made |= _bounded(part, bounds)
        return made
    if origin is list:
        return list[_bounded(parts[0], bounds)]
    return Annotated[kind, bounds] if kind in (int, float) else kind


def _check_leaf(value: object, kind: type, bounds: Bounds | None, key: str) -> None:
    valid = isinstance(value, (int, float) if kind is float else kind)
    if not valid or (isinstance(value, bool) and kind is not bool):
        raise refusal(key, value, _WORDS[kind])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Python's integers may be too large to be converted to floats.
        small = isinstance(value, float) or abs(value) <= MAX_COUNT
        if not small or (bounds is not None and not bounds.contains(value)):
            raise refusal(key, value, (bounds or Bounds()).describe(_WORDS[kind]))


def _mapping(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise refusal(key, value, "a mapping")
    return cast(dict[str, object], value)


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
