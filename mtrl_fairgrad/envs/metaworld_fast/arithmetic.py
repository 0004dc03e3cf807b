"""Arithmetic of Meta-World's rewards and observations for numbers and short vectors, bit-identical.

Each function replaces one of NumPy, SciPy or Meta-World whose time goes into generality. The common
case is computed with the same operations in the same order; every other call goes to the original.
Exactness excludes `x * x` for `x ** 2` (the C library's `pow`), a sum of products for `x.dot(x)`
(BLAS may fuse them) and `math.exp` for `np.exp`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

try:
    from numpy._core import umath
except ImportError:  # before NumPy 2
    from numpy.core import umath

clip: np.ufunc = umath.clip  # pyright: ignore[reportAttributeAccessIssue]
"""What `np.clip` calls after its preparations, which take three times as long."""
LONG_TAIL, GAUSSIAN = float(np.sqrt(1 / 0.1 - 1)), float(np.sqrt(-2 * np.log(0.1)))
"""Scales of the sigmoids that are 0.1 at the margin."""
DOUBLE = np.dtype(np.float64)
SMALL_MARGIN = 1e-100
"""Smaller margins may overflow `**`, which Python makes an error and NumPy infinity."""


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Compute `np.linalg.norm`, fast for the Euclidean norm of a float64 vector or a number."""
    if (ord is None or ord == 2) and axis is None and not keepdims:
        if type(x) is np.ndarray and x.dtype == DOUBLE and x.strides == (8,):
            return np.float64(math.sqrt(x.dot(x)))
        if ord is None and isinstance(x, float):
            return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, ord, axis, keepdims)


def tolerance(
    x: Any,
    bounds: Any = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: Any = 0.1,
) -> Any:
    """Compute `reward_utils.tolerance`, fast for numbers and the two sigmoids that rewards use."""
    lower, upper = bounds
    if not (
        value_at_margin == 0.1
        and isinstance(x, float)
        and isinstance(margin, float)
        and margin > SMALL_MARGIN
        and lower <= upper
        and (sigmoid == "long_tail" or sigmoid == "gaussian")
    ):
        # Imported here, since Meta-World takes a second and `reason_unverified` does not need it.
        from metaworld.utils import reward_utils

        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = (lower - x if x < lower else x - upper) / margin
    if sigmoid == "long_tail":
        return float(1 / ((distance * LONG_TAIL) ** 2 + 1))
    return float(np.exp(-0.5 * (distance * GAUSSIAN) ** 2))


class QuickRotation:
    """Implements `from_matrix(m).as_quat()` of `scipy.spatial.transform.Rotation`."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.float64]) -> "QuickRotation":
        """Create from a matrix [3, 3]."""
        return cls(matrix)

    def as_quat(self) -> NDArray[np.float64]:
        """Return the quaternion x, y, z, w; fast for a proper rotation."""
        rows = self._matrix.tolist()
        diagonal = rows[0][0], rows[1][1], rows[2][2]
        trace, largest = diagonal[0] + diagonal[1] + diagonal[2], max(diagonal)
        parts = [
            rows[2][1] - rows[1][2],
            rows[0][2] - rows[2][0],
            rows[1][0] - rows[0][1],
            1 + trace,
        ]
        leading = 3
        if not trace > largest:
            i = leading = diagonal.index(largest)
            j, k = (i + 1) % 3, (i + 2) % 3
            parts[3] = rows[k][j] - rows[j][k]
            parts[i] = 1 - trace + 2 * largest
            parts[j], parts[k] = rows[j][i] + rows[i][j], rows[k][i] + rows[i][k]
        x, y, z, w = parts
        square = x * x + y * y + z * z + w * w
        if not abs(square - 4 * parts[leading]) < 1e-9:
            return Rotation.from_matrix(self._matrix).as_quat()
        length = math.sqrt(square)
        return np.array((x / length, y / length, z / length, w / length))
