"""One algorithm, two array libraries: NumPy for small problems on the CPU, PyTorch for those on a
device.

A NumPy operation on ten numbers takes a quarter of the time of PyTorch's. Algorithms are written
once, in the words that both libraries share, and ask `namespace` for the library of what they were
given. On a device they must not look at values: `on_host` tells whether stopping early is possible.
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
"""A float64 (or bool) NumPy array or tensor; type checkers cannot follow both at once."""


def ignore_fp_warnings(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates what leads NaN and infinity through NumPy on purpose: without NumPy's warnings."""

    @functools.wraps(function)
    def silenced(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # no NumPy there
            return function(*args, **kwargs)
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silenced


def to_array(tensor: Tensor) -> Array:
    """A tensor in float64, without gradient: as NumPy array if it is on the CPU, else as it is."""
    values = tensor.detach().double()
    return (
        values if tensor.device.type != "cpu" or torch.compiler.is_compiling() else values.numpy()
    )


def to_tensor(array: Array) -> Tensor:
    """An array as a tensor."""
    return array if isinstance(array, Tensor) else torch.as_tensor(array)


def on_host(array: Array) -> bool:
    """Whether values may be looked at for free."""
    return not isinstance(array, Tensor)


def namespace(array: Array) -> Any:
    """The library an array belongs to."""
    return torch if isinstance(array, Tensor) else np


def eye_like(matrices: Array) -> Array:
    """The identity `[K, K]` for matrices `[..., K, K]`, float64."""
    tasks: int = matrices.shape[-1]
    if isinstance(matrices, Tensor):
        return torch.eye(tasks, dtype=torch.float64, device=matrices.device)
    return _numpy.eye(tasks)


def matvec(matrices: Array, vectors: Array) -> Array:
    """Matrices `[..., K, K]` times vectors `[..., K]`."""
    return (matrices @ vectors[..., None])[..., 0]


def solve(matrices: Array, vectors: Array) -> Array:
    """Solutions `[..., K]` of regular systems `[..., K, K]` for right sides `[..., K]`; never
    synchronises.
    """
    if isinstance(matrices, Tensor):
        return _linalg.solve_ex(matrices, vectors[..., None]).result[..., 0]
    return _numpy.linalg.solve(matrices, vectors[..., None])[..., 0]
