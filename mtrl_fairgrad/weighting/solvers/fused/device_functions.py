"""What both kernels do before and after their iteration, as Triton functions.

Floating-point literals that float32 cannot hold are rounded by some of Triton's functions: they go
through `constant`. Vectors of tasks run along the second axis of a matrix, and matrices, which are
symmetric, are reduced along the first: each thread then holds few elements of a vector.
"""

import torch
import triton
import triton.language as tl

from mtrl_fairgrad.weighting.solvers import equation

ACCURACY = tl.constexpr(equation.ACCURACY)
SOLVED = tl.constexpr(equation.SOLVED)
TINY_FLOAT32 = tl.constexpr(equation.TINY[torch.float32])
TINY_FLOAT64 = tl.constexpr(equation.TINY[torch.float64])


@triton.jit
def constant(VALUE: tl.constexpr):
    """Return a number in float64."""
    return tl.full((), VALUE, tl.float64)


@triton.jit
def matvec(matrix, vector):
    """Multiply a symmetric matrix `[BLOCK, BLOCK]` by a vector `[BLOCK]`."""
    return tl.sum(matrix * vector[:, None], 0)


@triton.jit
def all_finite(values):
    """Return whether all numbers of a vector are finite."""
    return tl.min(tl.where(tl.abs(values) < float("inf"), 1, 0), 0) > 0


@triton.jit
def largest_or_nan(values):
    """Return the maximum of a vector, NaN if there is one."""
    nans = tl.max(tl.where(values == values, 0, 1), 0)
    largest = tl.max(tl.where(values == values, values, -float("inf")), 0)
    return tl.where(nans > 0, float("nan"), largest)


@triton.jit
def load_gramian(gramian_ptr, TASKS: tl.constexpr, BLOCK: tl.constexpr):
    """Load the program's matrix in float64, with zeros around it."""
    index = tl.arange(0, BLOCK)
    inside = (index[:, None] < TASKS) & (index[None, :] < TASKS)
    problem = tl.program_id(0).to(tl.int64)
    entries = gramian_ptr + problem * TASKS * TASKS + index[:, None] * TASKS + index[None, :]
    return tl.load(entries, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def prepare(
    gramian_ptr,
    active_ptr,
    min_relative_norm,
    HAS_ACTIVE: tl.constexpr,
    TASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Load a Gramian and mask its inactive tasks, as `problem.prepare` does.

    Returns:
        The Gramian, 0 outside active tasks; its diagonal; which tasks are active; and whether it is
        finite. One that is not finite is replaced by the identity.
    """
    index = tl.arange(0, BLOCK)
    real = index < TASKS
    diagonal = index[:, None] == index[None, :]
    gramian = load_gramian(gramian_ptr, TASKS, BLOCK)
    finite = tl.min(tl.min(tl.where(tl.abs(gramian) < float("inf"), 1, 0), 0), 0) > 0
    gramian = tl.where(finite, gramian, tl.where(diagonal & real[None, :], 1.0, 0.0))
    squares = tl.sum(tl.where(diagonal, gramian, 0.0), 0)
    largest = tl.max(tl.where(real, squares, -float("inf")), 0)
    active = real & (squares > min_relative_norm * min_relative_norm * largest)
    if HAS_ACTIVE:
        problem = tl.program_id(0).to(tl.int64)
        given = tl.load(active_ptr + problem * TASKS + index, mask=real, other=0)
        active = active & (given != 0)
    gramian = tl.where(active[:, None] & active[None, :], gramian, 0.0)
    return gramian, squares, active, finite


@triton.jit
def store_solution(
    gramian,
    active,
    valid,
    weights,
    power,
    weights_ptr,
    residual_ptr,
    converged_ptr,
    progress_ptr,
    active_out_ptr,
    TASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Measure, round and store weights, as `equation.make_solution` does.

    Args:
        gramian: `[BLOCK, BLOCK]`, 0 outside active tasks.
        active: `[BLOCK]` bool.
        valid: whether there is a solution; otherwise the results are NaN and False.
        weights: `[BLOCK]`.
        power: `[BLOCK]`, `w^(1/α)`, also of weights that float64 cannot hold.
        weights_ptr: float32 or float64, the first of the results.
        residual_ptr: float64.
        converged_ptr: bool.
        progress_ptr: float64.
        active_out_ptr: bool.
        TASKS: K.
        BLOCK: a power of two, at least K.
    """
    index = tl.arange(0, BLOCK)
    real = index < TASKS
    problem = tl.program_id(0).to(tl.int64)
    weights = tl.where(active, weights, 0.0)
    progress = matvec(gramian, weights)
    if weights_ptr.dtype.element_ty == tl.float64:
        tiny = constant(TINY_FLOAT64)
    else:
        tiny = constant(TINY_FLOAT32)
    weights = tl.where(active & (weights < tiny), tiny, weights)
    rounding = constant(ACCURACY) * matvec(tl.abs(gramian), weights)
    residuals = tl.abs(progress * power - 1.0) - rounding * power
    # Where the power overflows, `w^(−1/α)` is 0 beside the terms of `Mw`.
    unsolved = tl.where(tl.abs(progress) > rounding, float("inf"), 0.0)
    residuals = tl.where(power == float("inf"), unsolved, residuals)
    residual = largest_or_nan(tl.where(active, residuals, 0.0))
    residual = tl.where(residual < 0.0, 0.0, residual)
    smallest = -largest_or_nan(tl.where(active, -progress, -float("inf")))
    smallest = tl.where(tl.max(tl.where(active, 1, 0), 0) > 0, smallest, 0.0)
    nan = float("nan")
    tl.store(weights_ptr + problem * TASKS + index, tl.where(valid, weights, nan), mask=real)
    tl.store(residual_ptr + problem, tl.where(valid, residual, nan))
    tl.store(converged_ptr + problem, valid & (residual <= constant(SOLVED)))
    tl.store(progress_ptr + problem, tl.where(valid, smallest, nan))
    tl.store(active_out_ptr + problem * TASKS + index, active & valid, mask=real)
