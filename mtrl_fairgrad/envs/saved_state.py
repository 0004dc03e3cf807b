"""Checks of a saved state of the environments, before anything is restored from it."""

from typing import Any

import numpy as np

from mtrl_fairgrad.envs.suite import Suite
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
        origin, found = saved["made"], saved["rows"]
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
