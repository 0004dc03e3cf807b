"""The paper's SGD solver as one Triton kernel: one program solves one problem.

In float32 it computes as `published_sgd` does: each operation in float64, its result rounded, so
that what overflows there overflows here. Sums are rounded once, so that results differ by float32's
rounding.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import published_sgd
from mtrl_fairgrad.weighting.solvers.fused.device_functions import (
    constant,
    matvec,
    prepare,
    store_solution,
)
from mtrl_fairgrad.weighting.solvers.fused.launching import as_problems, block_of, options_of

EPSILON = tl.constexpr(published_sgd.EPSILON)


@triton.jit
def _rounded(values, SINGLE: tl.constexpr):
    return values.to(tl.float32).to(tl.float64) if SINGLE else values


@triton.jit
def _norm(values, count, SINGLE: tl.constexpr):
    """Return the norm; like PyTorch's, that of a single number does not overflow."""
    squares = _rounded(tl.sum(_rounded(values * values, SINGLE), 0), SINGLE)
    return tl.where(count == 1.0, tl.sum(tl.abs(values), 0), _rounded(tl.sqrt(squares), SINGLE))


@triton.jit
def sgd_kernel(
    gramian_ptr,
    active_ptr,
    weights_ptr,
    residual_ptr,
    converged_ptr,
    progress_ptr,
    active_out_ptr,
    p: "fp64",
    min_relative_norm: "fp64",
    learning_rate: "fp64",
    momentum: "fp64",
    max_norm: "fp64",
    steps,
    HAS_ACTIVE: tl.constexpr,
    SINGLE: tl.constexpr,
    TASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gramian, _, active, valid = prepare(
        gramian_ptr, active_ptr, min_relative_norm, HAS_ACTIVE, TASKS, BLOCK
    )
    matrix = _rounded(gramian, SINGLE)
    epsilon = constant(EPSILON)
    count = tl.sum(tl.where(active, 1.0, 0.0).to(tl.float64), 0)
    weights = tl.where(active, _rounded(1.0 / tl.where(count > 0.0, count, 1.0), SINGLE), 0.0)
    best = weights
    velocity = weights * 0.0
    lowest = constant(float("inf"))
    for _ in range(steps):
        inverse = _rounded(1.0 / _rounded(weights + epsilon, SINGLE), SINGLE)
        logarithm = tl.log(inverse)
        power = _rounded(tl.exp(p * logarithm), SINGLE)
        progress = _rounded(matvec(matrix, weights), SINGLE)
        error = tl.where(active, _rounded(progress - power, SINGLE), 0.0)
        # The published code squares a norm, and differentiates that.
        norm = _norm(error, count, SINGLE)
        objective = _rounded(norm * norm, SINGLE)
        better = objective < lowest
        best = tl.where(better, weights, best)
        lowest = tl.where(better, objective, lowest)
        share = tl.where(norm == 0.0, 0.0, error / tl.where(norm == 0.0, 1.0, norm))
        along = _rounded(2.0 * norm * _rounded(share, SINGLE), SINGLE)
        slope = _rounded(p * _rounded(tl.exp((p - 1.0) * logarithm), SINGLE), SINGLE)
        through = _rounded(along * slope, SINGLE) * _rounded(inverse * inverse, SINGLE)
        through = tl.where(active, _rounded(through, SINGLE), 0.0)
        gradient = _rounded(_rounded(matvec(matrix, along), SINGLE) + through, SINGLE)
        length = _norm(gradient, count, SINGLE)
        scale = _rounded(max_norm / _rounded(length + constant(1e-6), SINGLE), SINGLE)
        gradient = _rounded(gradient * tl.where(scale > 1.0, 1.0, scale), SINGLE)
        velocity = _rounded(_rounded(momentum * velocity, SINGLE) + gradient, SINGLE)
        weights = _rounded(weights - learning_rate * velocity, SINGLE)
        # NaN stays, unlike in a maximum.
        weights = tl.where(weights < epsilon, epsilon, weights)
    power = tl.exp(p * tl.log(tl.where(active, best, 1.0)))
    store_solution(
        gramian,
        active,
        valid,
        best,
        power,
        weights_ptr,
        residual_ptr,
        converged_ptr,
        progress_ptr,
        active_out_ptr,
        TASKS,
        BLOCK,
    )


def launch(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    min_relative_norm: float,
    options: tuple[int, float, float, float],
    single: bool,
    results: tuple[Tensor, ...],
) -> None:
    """Run the solver for all problems, and write the fields of a `Solution` into `results`.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.
        min_relative_norm: as in `solvers.sgd`.
        options: steps, learning rate, momentum and largest norm.
        single: round to float32, as published.
        results: contiguous.
    """
    shape = gramian.shape
    tasks, count = shape[-1], math.prod(shape[:-2])
    if not count:
        return
    block = block_of(tasks)
    mask = as_problems(active, shape[:-1], 1)
    steps, learning_rate, momentum, max_norm = options
    with torch.cuda.device_of(gramian):
        sgd_kernel[(count,)](
            as_problems(gramian, shape, 2),
            results[0] if mask is None else mask,
            *results,
            1 / alpha,
            min_relative_norm,
            learning_rate,
            momentum,
            max_norm,
            steps,
            HAS_ACTIVE=mask is not None,
            SINGLE=single,
            TASKS=tasks,
            BLOCK=block,
            **options_of(block),
        )
