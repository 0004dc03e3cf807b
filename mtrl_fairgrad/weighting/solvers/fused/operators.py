"""The kernels as PyTorch operations, with what fake tensors need to know of them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import FakeTensor

from mtrl_fairgrad.utils.faults import FallbackWarning, first_line
from mtrl_fairgrad.utils.validation import one_line
from mtrl_fairgrad.weighting.solvers.equation import Solution
from mtrl_fairgrad.weighting.solvers.problem import check_gramian

MAX_TASKS = 64
"""Largest K: a program holds its matrix in registers."""

HAS_TRITON = importlib.util.find_spec("triton") is not None

_library: Any = library  # incompletely annotated


def is_usable(gramian: Tensor) -> bool:
    """Return whether the kernels can solve problems `[..., K, K]`.

    On a CUDA device for K up to `MAX_TASKS`, if Triton is installed and did not fail. Fake tensors
    need no Triton.
    """
    if gramian.device.type != "cuda" or gramian.shape[-1] > MAX_TASKS:
        return False
    return (HAS_TRITON and not _Trial.failed) or isinstance(gramian, FakeTensor)


class _Trial:
    """What the first launch of a kernel in this process showed."""

    worked = False
    failed = False


def attempt(solve: Callable[[], Solution]) -> Solution | None:
    """Call a solver of this module; return None if the first of all calls fails.

    Triton needs a C compiler and the headers of Python. Without them a `FallbackWarning` says so,
    and the kernels are not usable any more. Later errors have other causes and are raised.
    """
    if _Trial.worked or torch.compiler.is_compiling():
        return solve()
    try:
        solution = solve()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # anything that compilers and drivers may raise
        _Trial.failed = True
        warnings.warn(
            "FairGrad's equation is solved on the CPU, because its Triton kernel fails here with "
            + one_line(first_line(error)),
            FallbackWarning,
            stacklevel=4,
        )
        return None
    _Trial.worked = not isinstance(solution.weights, FakeTensor)
    return solution


@torch.no_grad()
def newton(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    min_relative_norm: float = 0.0,
    start: Tensor | None = None,
) -> Solution:
    """Solve the α-fair equation exactly; see `solvers.newton`.

    Args:
        gramian: `[..., K, K]` for which `is_usable`.
        alpha: positive.
        active: `[..., K]` bool.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.
        start: `[..., K]`, weights near the solution, as those of the last update. They change the
            number of iterations only, and are ignored where one of an active task is not positive.

    Raises:
        ValueError: a Gramian that is not `[..., K, K]`.
    """
    check_gramian(gramian)
    return Solution(*_newton(gramian, float(alpha), active, float(min_relative_norm), start))


@torch.no_grad()
def sgd(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    *,
    steps: int,
    learning_rate: float,
    momentum: float,
    max_norm: float,
    min_relative_norm: float = 0.0,
    single: bool = True,
) -> Solution:
    """Run the paper's fast solver; see `solvers.sgd`.

    Args:
        gramian: `[..., K, K]` for which `is_usable`.
        alpha: positive.
        active: `[..., K]` bool.
        steps: at least 1.
        learning_rate: positive.
        momentum: in [0, 1).
        max_norm: positive.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.
        single: round each operation's result to float32, as the published code does.

    Raises:
        ValueError: a Gramian that is not `[..., K, K]`.
    """
    check_gramian(gramian)
    options = (float(learning_rate), float(momentum), float(max_norm), float(min_relative_norm))
    return Solution(*_sgd(gramian, float(alpha), active, int(steps), *options, single))


Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The fields of `Solution`."""


def empty_results(gramian: Tensor) -> Results:
    """Allocate the fields of a solution."""
    vectors, numbers = gramian.shape[:-1], gramian.shape[:-2]
    return (
        gramian.new_empty(vectors, dtype=torch.promote_types(gramian.dtype, torch.float32)),
        gramian.new_empty(numbers, dtype=torch.float64),
        gramian.new_empty(numbers, dtype=torch.bool),
        gramian.new_empty(numbers, dtype=torch.float64),
        gramian.new_empty(vectors, dtype=torch.bool),
    )


@_library.custom_op("mtrl_fairgrad::newton", mutates_args=(), device_types="cuda")
def _newton(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    min_relative_norm: float,
    start: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from mtrl_fairgrad.weighting.solvers.fused.newton_kernel import launch

    results = empty_results(gramian)
    launch(gramian, alpha, active, min_relative_norm, start, results)
    return results


@_newton.register_fake
def _(gramian: Tensor, *_: Any) -> Results:
    return empty_results(gramian)


@_library.custom_op("mtrl_fairgrad::sgd", mutates_args=(), device_types="cuda")
def _sgd(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    steps: int,
    learning_rate: float,
    momentum: float,
    max_norm: float,
    min_relative_norm: float,
    single: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from mtrl_fairgrad.weighting.solvers.fused.sgd_kernel import launch

    results = empty_results(gramian)
    options = (steps, learning_rate, momentum, max_norm)
    launch(gramian, alpha, active, min_relative_norm, options, single, results)
    return results


@_sgd.register_fake
def _(gramian: Tensor, *_: Any) -> Results:
    return empty_results(gramian)
