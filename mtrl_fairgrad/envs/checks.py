"""Refuses what cannot work before anything is built: ValueError with the value, what is allowed,
the fix.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.suite import Suite

MAX_SEED = 2**32 - 1
"""Largest seed that NumPy's RandomState, and so Metaworld, accepts."""


def integer(name: str, value: Any, low: int, high: int, fix: str) -> int:
    """`value` as an int when it is an integer (not a bool) in [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, np.integer))
        or not low <= value <= high
    ):
        raise ValueError(f"{name}={value!r} is not an integer from {low} to {high}: {fix}.")
    return int(value)


def seconds(name: str, value: float | None) -> float | None:
    """None, or a number above 0."""
    if value is not None and not value > 0:
        raise ValueError(
            f"{name}={value!r} is no time: give seconds above 0, or None for whatever it takes."
        )
    return value


def seeds(values: Sequence[int]) -> tuple[int, ...]:
    """At least one seed, none twice, each from 0 to 2³² − 1."""
    if len(values) == 0:
        raise ValueError(
            "seeds=[] leaves nothing to run: give at least one seed, for example seeds=[0]."
        )
    checked = tuple(integer("seed", value, 0, MAX_SEED, "choose another") for value in values)
    twice = [seed for seed in dict.fromkeys(checked) if checked.count(seed) > 1]
    if twice:
        raise ValueError(
            f"seeds={list(checked)} holds {twice[0]} {checked.count(twice[0])} times: give each "
            "seed once."
        )
    return checked


def word(name: str, value: Any, allowed: Mapping[str, str]) -> str:
    """`value` when it is a key of `allowed`; what stands there is said of it in brackets."""
    if value not in allowed:
        words = [f"{each} ({said})" if said else each for each, said in allowed.items()]
        raise ValueError(f"{name}={value!r} is not known: choose {' or '.join(words)}.")
    return str(value)


def role(name: str) -> str:
    """`train` or `eval`."""
    return word("role", name, {"train": "", "eval": ""})


def goals(values: Any, rows: int, count: int) -> NDArray[np.int64]:
    """Goals [rows, E], E ≥ 1, each from 0 to `count` − 1."""
    array = np.asarray(values)
    if (
        array.ndim != 2
        or array.shape[0] != rows
        or array.shape[1] == 0
        or not np.issubdtype(array.dtype, np.integer)
    ):
        raise ValueError(
            f"goals of type {array.dtype} and shape {list(array.shape)} do not fit: give integers"
            f" [{rows}, E], the goals of each sub-environment in order, at least one."
        )
    if array.min() < 0 or array.max() >= count:
        worst = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"goal {worst} does not exist: a task has goals 0 to {count - 1}.")
    return array.astype(np.int64)


def state(saved: Any, made: dict[str, Any], rows: int, suite: Suite) -> list[dict[str, Any]]:
    """The rows of a saved state, when it is intact and comes from environments made like these
    (`made`).
    """
    try:
        origin, saved_rows = saved["made"], saved["rows"]
        differing = [key for key in made if origin[key] != made[key]]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"the saved environment state is damaged ({error!r}): use another checkpoint."
        ) from None
    if differing:
        key = differing[0]
        raise ValueError(
            f"the saved environments had {key}={origin[key]!r} and these have {made[key]!r}: one "
            "cannot"
            f" continue the other, so resume with {key}={origin[key]!r}."
        )
    intact = isinstance(saved_rows, list) and len(saved_rows) == rows
    if not intact or not all(_is_row(row, suite) for row in saved_rows):
        raise ValueError(
            f"the saved environment state does not hold {rows} intact rows: use another checkpoint."
        )
    return saved_rows


def _is_row(row: Any, suite: Suite) -> bool:
    """Whether a row holds a goal, a state that NumPy's generator takes, and what else the suite
    needs.
    """
    try:
        integer("goal", row["goal"], 0, suite.goal_count - 1, "")
        np.random.PCG64().state = row["generator"]
        suite.check_row(row)
    except (TypeError, KeyError, ValueError, OverflowError):
        return False
    return True
