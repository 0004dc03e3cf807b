"""Find NaN and infinity in what simulators and policies return, and replace such actions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def non_finite_rows(*arrays: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether any number of a row is NaN or infinite, bool [N].

    Args:
        arrays: [N, ...], at least one.
    """
    found = np.zeros(len(arrays[0]), np.bool_)
    for array in arrays:
        finite = np.isfinite(array)
        if not finite.all():
            found |= ~finite.reshape(len(finite), -1).all(axis=1)
    return found


def without_non_finite(actions: NDArray[Any]) -> NDArray[Any]:
    """Return actions [N, A] with zeros in place of rows that are not finite.

    So one row, whose observation was NaN or whose policy has diverged, does not end the others.
    """
    bad = non_finite_rows(actions)
    return np.where(bad[:, None], 0, actions).astype(actions.dtype) if bad.any() else actions
