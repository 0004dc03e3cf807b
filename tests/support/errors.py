"""Assertions about refused values: by the error's type, key and value, not by its prose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mtrl_fairgrad.utils.validation import ConfigError

ANY_VALUE = object()


@contextmanager
def refused(key: str, value: object = ANY_VALUE) -> Iterator[None]:
    """Assert that the block raises `ConfigError` about `key` (and `value`) in one sentence."""
    with pytest.raises(ConfigError) as caught:
        yield
    check_refusal(caught.value, key, value)


def check_refusal(error: BaseException, key: str, value: object = ANY_VALUE) -> None:
    """Assert that `error` names `key` and `value` in one sentence that ends with a full stop."""
    assert isinstance(error, ConfigError)
    assert error.key == key, error
    if value is not ANY_VALUE:
        # By representation, because NaN differs from itself and 1 equals True.
        assert repr(error.value) == repr(value), error
    text = str(error)
    assert key in text and "\n" not in text and text[-1] in ".?", text
