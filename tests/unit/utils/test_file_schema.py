"""Schemas: what a file holds has the declared types and bounds, or is refused by its key."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest

from mtrl_fairgrad.utils.file_schema import Count, Rate, check_schema
from mtrl_fairgrad.utils.validation import Bounds, ConfigError, option


@dataclass
class Part:
    size: int = option(1, at_least=1)
    rates: list[float] | None = option(None, above=0)


@dataclass
class Whole:
    part: Part = field(default_factory=Part)
    options: dict[str, Any] = option(factory=dict)
    name: str | None = option(None)


class Entry(TypedDict):
    count: Count
    success: dict[str, Rate]


class Later(Entry, total=False):
    kind: Literal["a", "b"]


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({}, Whole),
        ({"part": {"size": 3, "rates": [0.5, 2]}, "options": {"x": [1]}, "new": 1}, Whole),
        ({"part": {"rates": None}, "name": None}, Whole),
        ({"count": 0, "success": {"reach": 1}}, Later),
        ({"count": 0, "success": {}, "kind": "b", "more.keys": 2}, dict[str, Any]),
        ([], list[int]),
        (None, int | None),
        ({"a": 1}, dict[str, Any] | None),
        (float("nan"), Any),
    ],
)
def test_what_fits_passes(value, schema):
    check_schema(value, schema)


@pytest.mark.parametrize(
    ("value", "schema", "key"),
    [
        ([], Whole, None),
        ({"part": []}, Whole, "part"),
        ({"part": {"size": 0}}, Whole, "part.size"),
        ({"part": {"size": 1.0}}, Whole, "part.size"),
        ({"part": {"size": True}}, Whole, "part.size"),
        ({"part": {"size": 10**400}}, Whole, "part.size"),
        ({"part": {"rates": [1, float("inf")]}}, Whole, "part.rates[1]"),
        ({"part": {"rates": 1}}, Whole, "part.rates"),
        ({"options": None}, Whole, "options"),
        ({"part.size": 3}, Whole, "part.size"),
        ({"count": 1}, Entry, "success"),
        ({"count": -1, "success": {}}, Entry, "count"),
        ({"count": 1, "success": {"a": 2}}, Entry, "success.a"),
        ({"count": 1, "success": {"a": float("nan")}}, Entry, "success.a"),
        ({"count": 1, "success": {}, "kind": "c"}, Later, "kind"),
        (True, Annotated[int, Bounds(0)], None),
        ("1", float, None),
        (1, str | None, None),
    ],
)
def test_the_first_value_that_differs_is_named(value, schema, key):
    with pytest.raises(ConfigError) as caught:
        check_schema(value, schema)
    assert caught.value.key == key and "\n" not in str(caught.value)
