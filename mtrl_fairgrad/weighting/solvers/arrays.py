"""NumPy arrays of problems: a NumPy operation on ten numbers takes a quarter of PyTorch's time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_numpy: Any = np  # its functions have too many type annotations

Array = NDArray[Any]
"""A float64 or bool NumPy array."""


def ignore_fp_warnings(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: disable NumPy's warnings where NaN and infinity are intended."""

    @functools.wraps(function)
    def silenced(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silenced


def to_array(tensor: Tensor) -> Array:
    """Return the values of a tensor on the CPU in float64, without gradient."""
    return tensor.detach().double().numpy()


def matvec(matrices: Array, vectors: Array) -> Array:
    """Multiply matrices `[..., K, K]` by vectors `[..., K]`."""
    return (matrices @ vectors[..., None])[..., 0]


def solve(matrices: Array, vectors: Array) -> Array:
    """Solve regular systems `[..., K, K]` for right sides `[..., K]`."""
    return _numpy.linalg.solve(matrices, vectors[..., None])[..., 0]
