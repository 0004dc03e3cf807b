"""Algorithms for two array libraries: NumPy on the CPU, PyTorch on other devices.

A NumPy operation on ten numbers takes a quarter of the time of PyTorch's. Algorithms are written
once, with the functions that both libraries share, and get the library of their inputs from
`namespace`. On a device they must not read values; early stopping is possible where `on_host`
returns True.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_numpy: Any = np
_linalg: Any = torch.linalg  # their functions have no, or too many, type annotations

Array = Any
"""A float64 or bool NumPy array or tensor; type checkers cannot follow both at once."""


def ignore_fp_warnings(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: disable NumPy's warnings where NaN and infinity are intended."""

    @functools.wraps(function)
    def silenced(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # no NumPy there
            return function(*args, **kwargs)
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silenced


def to_array(tensor: Tensor) -> Array:
    """Convert to float64 without gradient, and to a NumPy array if the tensor is on the CPU."""
    values = tensor.detach().double()
    return (
        values if tensor.device.type != "cpu" or torch.compiler.is_compiling() else values.numpy()
    )


def to_tensor(array: Array) -> Tensor:
    """Convert an array to a tensor."""
    return array if isinstance(array, Tensor) else torch.as_tensor(array)


def on_host(array: Array) -> bool:
    """Return whether reading values needs no synchronisation."""
    return not isinstance(array, Tensor)


def namespace(array: Array) -> Any:
    """Return the library of an array."""
    return torch if isinstance(array, Tensor) else np


def eye_like(matrices: Array) -> Array:
    """Return the identity `[K, K]` in float64 for matrices `[..., K, K]`."""
    tasks: int = matrices.shape[-1]
    if isinstance(matrices, Tensor):
        return torch.eye(tasks, dtype=torch.float64, device=matrices.device)
    return _numpy.eye(tasks)


def matvec(matrices: Array, vectors: Array) -> Array:
    """Multiply matrices `[..., K, K]` by vectors `[..., K]`."""
    return (matrices @ vectors[..., None])[..., 0]


def solve(matrices: Array, vectors: Array) -> Array:
    """Solve regular systems `[..., K, K]` for right sides `[..., K]` without synchronising."""
    if isinstance(matrices, Tensor):
        return _linalg.solve_ex(matrices, vectors[..., None]).result[..., 0]
    return _numpy.linalg.solve(matrices, vectors[..., None])[..., 0]
