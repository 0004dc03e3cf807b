"""What a value of the configuration may be, and the one sentence when it is not."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

MANY = 10**15
"""More than anything is counted to, and small enough for every integer and float that counts."""
LONGEST = 1000
"""Characters of a sentence on the terminal."""


class ConfigError(ValueError):
    """A configuration mistake, told in one sentence with the value, what is allowed and the fix."""


def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among the allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, n=1)
        hint = f"did you mean {close[0]}?" if close else "choose one of them."
        raise ConfigError(f"{key}={value} is unknown; allowed: {', '.join(allowed)}; {hint}")


def within(key: str, value: float, low: float, high: float = MANY) -> None:
    """Refuse a value outside of low … high, both included."""
    if not low <= value <= high:
        allowed = (
            f"at least {low:g}"
            if high == MANY and not value > high
            else f"between {low:g} and {high:g}"
        )
        raise ConfigError(f"{key}={value} is out of range: give a value {allowed}.")


def positive(key: str, value: float, other: str = "") -> None:
    """Refuse what is no finite number above 0."""
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(
            f"{key}={value} is out of range: give a finite number above "
            f"0{' ' + other if other else ''}."
        )


def check_device(name: str) -> None:
    """Refuse what is no device's name, wherever there is such a device or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ConfigError(f"device={name} is unknown: choose auto, cpu, cuda or cuda:N.")


def depth(text: str) -> int:
    """How many brackets are open at once at most, which costs parsers time and stack."""
    now = most = 0
    for letter in text:
        now += (letter in "[{(") - (letter in "]})")
        most = max(most, now)
    return most


def readable(text: str) -> str:
    """One line for a terminal: control characters by their code, and the middle left out of what is
    very long.

    A value may be anything, also what would clear a screen or fill it.
    """
    line = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
