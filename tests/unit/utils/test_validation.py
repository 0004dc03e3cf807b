"""Checks of values: what passes, what is refused, and that errors survive a process boundary."""

import math
import pickle
from dataclasses import dataclass

import pytest

from mtrl_fairgrad.utils.validation import (
    ConfigError,
    check_integer,
    check_number,
    option,
    validate_fields,
)
from tests.support.errors import refused


@dataclass
class Inner:
    rate: float = option(0.5, above=0, at_most=1)


@dataclass
class Outer:
    count: int | None = option(None, at_least=1)
    word: str = option("a", choices=("a", "b"))
    values: list[float] = option(factory=lambda: [1.0], above=0)
    inner: Inner = option(factory=Inner)


def test_fields_are_checked_with_their_dotted_names():
    validate_fields(Outer(count=3, word="b", inner=Inner(rate=1)))
    for wrong, key, value in [
        (Outer(count=0), "x.count", 0),
        (Outer(word="c"), "x.word", "c"),
        (Outer(values=[2.0, -1.0]), "x.values", -1.0),
        (Outer(inner=Inner(rate=math.nan)), "x.inner.rate", math.nan),
        (Outer(inner=Inner(rate=0.0)), "x.inner.rate", 0.0),
    ]:
        with refused(key, value):
            validate_fields(wrong, "x.")


@pytest.mark.parametrize("value", [True, "1", None, 1.5, -1, 10**16])
def test_an_integer_is_no_bool_text_or_fraction_and_has_limits(value):
    with refused("n", value):
        check_integer("n", value)


def test_infinity_needs_leave():
    assert check_number("t", math.inf, above=0, finite=False) == math.inf
    with refused("t", math.inf):
        check_number("t", math.inf, above=0)


def test_errors_keep_key_and_value_in_another_process():
    for error in (ConfigError("no.", "a.b", 3), ConfigError("no.")):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.key, copy.value) == (str(error), error.key, error.value)
