"""Conversions of values whose meaning is clear: `seeds=3` is `seeds=[3]`, `steps=1e6` a million.

A single value stands for a list of one, and a float without a fraction for an integer, wherever the
option's type, or the default of a method's or benchmark's option, is a list or an integer. YAML's
true and false are the words `true` and `false` where the option is a word.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, cast

from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.utils.validation import field_types, optional_type


def coerce_fields(schema: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with lists and integers where the fields of a dataclass have them.

    Args:
        schema: the dataclass.
        values: option → value, nested for nested dataclasses; unknown options are kept.
    """
    types = field_types(schema)
    return {
        key: _coerce(key, value, types[key]) if key in types else value
        for key, value in values.items()
    }


def coerce_choice(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a choice of a group with the types of its defaults."""
    defaults = config_group(group).get(str(values.get("name")), {})
    return {key: _like(value, defaults.get(key)) for key, value in values.items()}


def _coerce(key: str, value: Any, annotation: Any) -> Any:
    kind, _ = optional_type(annotation)
    if _is_interpolation(value):
        return value
    if typing.get_origin(kind) is list:
        element = typing.get_args(kind)[0]
        return None if value is None else [_coerce(key, each, element) for each in _listed(value)]
    if isinstance(value, dict):
        nested = cast(dict[str, Any], value)
        if dataclasses.is_dataclass(kind):
            return coerce_fields(cast(type, kind), nested)
        return coerce_choice(key, nested) if typing.get_origin(kind) is dict else nested
    if kind is str and isinstance(value, bool):
        return str(value).lower()
    return _whole(value) if kind is int else value


def _like(value: Any, default: Any) -> Any:
    """Return `value` with the type of `default`, if that is a list or an integer."""
    if isinstance(default, list) and value is not None and not _is_interpolation(value):
        elements = cast(list[Any], default)
        first = elements[0] if elements else None
        return [_like(each, first) for each in _listed(value)]
    is_integer = isinstance(default, int) and not isinstance(default, bool)
    return _whole(value) if is_integer else value


def _listed(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
