"""A saved state of the environments as JSON, and its checks before anything is restored from it."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.shared_memory import Buffers
from mtrl_fairgrad.utils.encoded_arrays import decode_array, encode_array
from mtrl_fairgrad.utils.validation import ConfigError, check_integer


def saved_rows(saved: Any, made: dict[str, Any], rows: int, suite: Suite) -> list[dict[str, Any]]:
    """Return the rows of a saved state if it is intact and from environments made like these.

    Args:
        saved: what `get_state` returned, perhaps damaged.
        made: settings of these environments.
        rows: sub-environments of these environments.
        suite: suite of these environments.

    Raises:
        ValueError: otherwise.
    """
    try:
        # Older versions had no copies.
        origin, found = {"copies": 1, **saved["made"]}, saved["rows"]
        differing = [key for key in made if origin[key] != made[key]]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"the saved environment state is damaged ({error!r}): use another checkpoint."
        ) from None
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{key}={made[key]!r} differs from the saved environments, which had "
            f"{key}={origin[key]!r}: resume with that value.",
            key,
            made[key],
        )
    if (
        not isinstance(found, list)
        or len(found) != rows
        or not all(_is_saved_row(row, suite) for row in found)
    ):
        raise ValueError(
            f"the saved environment state does not hold {rows} intact rows: use another checkpoint."
        )
    return found


def _is_saved_row(row: Any, suite: Suite) -> bool:
    """Return whether a row holds a goal, a state of NumPy's generator and what the suite needs."""
    try:
        check_integer("goal", row["goal"], at_most=suite.goal_count - 1)
        np.random.PCG64().state = row["generator"]
        suite.check_state(row)
    except (TypeError, KeyError, ValueError, OverflowError):
        return False
    return True


# ---- results of steps that were not taken yet ----

RESULTS = tuple(
    each.name for each in fields(Buffers) if each.name not in ("actions", "step_seconds")
)
"""Buffers that a step writes its results to."""


def save_results(buffers: Buffers, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Return the results of some rows, JSON-serialisable."""
    return {name: encode_array(getattr(buffers, name)[rows]) for name in RESULTS}


def saved_results(
    saved: dict[str, Any], buffers: Buffers, half_rows: Sequence[NDArray[np.intp]]
) -> dict[int, dict[str, NDArray[Any]]]:
    """Return the results by half and buffer of the steps that were not taken.

    Raises:
        ValueError: they are damaged.
    """
    found: dict[int, dict[str, NDArray[Any]]] = {}
    try:
        for half, arrays in saved.get("results", {}).items():
            rows = half_rows[int(half)]
            found[int(half)] = {
                name: decode_array(arrays[name], getattr(buffers, name)[rows]) for name in RESULTS
            }
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"the saved results of a step are damaged ({error!r}): use another checkpoint."
        ) from None
    return found
