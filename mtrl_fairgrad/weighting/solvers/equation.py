"""The α-fair equation: solution type, residual, and the solution for α = 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers.arrays import (
    Array,
    ignore_fp_warnings,
    matvec,
    namespace,
    to_array,
    to_tensor,
)
from mtrl_fairgrad.weighting.solvers.problem import Problem, check_gramian, prepare


class Solution(NamedTuple):
    """Result of a solver."""

    weights: Tensor
    """`[..., K]`, positive for active tasks, 0 for others."""
    residual: Tensor
    """`[...]` float64, the `relative_residual` before rounding to the Gramian's dtype."""
    converged: Tensor
    """`[...]` bool."""
    min_progress: Tensor
    """`[...]` float64, the smallest `g_iᵀd` of an active task; 0 where no task is active."""
    active: Tensor
    """`[..., K]` bool, False for tasks left out."""


def make_solution(
    problem: Problem, weights: Array, alpha: float, like: Tensor, converged: float | Array
) -> Solution:
    """Mask, measure and round the weights of a solved problem.

    Args:
        problem: what was solved.
        weights: `[..., K]`; those of inactive tasks are ignored.
        alpha: positive.
        like: the original Gramian, for dtype and device.
        converged: `[...]` bool, or the largest relative residual that counts as converged.
    """
    xp = namespace(weights)
    weights = xp.where(problem.active, weights, 0.0)
    progress = matvec(problem.gramian, weights)
    residual = xp.amax(xp.where(problem.active, _residuals(progress, weights, alpha), 0.0), -1)
    if isinstance(converged, float):
        converged = residual <= converged
    smallest = xp.amin(xp.where(problem.active, progress, xp.inf), -1)
    smallest = xp.where(xp.any(problem.active, -1), smallest, 0.0)
    invalid = ~problem.valid
    fields = (
        to_tensor(xp.where(invalid[..., None], xp.nan, weights)).to(
            torch.promote_types(like.dtype, torch.float32)
        ),
        to_tensor(xp.where(invalid, xp.nan, residual)),
        to_tensor(converged & problem.valid),
        to_tensor(xp.where(invalid, xp.nan, smallest)),
        to_tensor(problem.active & problem.valid[..., None]),
    )
    return Solution(*(tensor.to(like.device) for tensor in fields))


@ignore_fp_warnings
@torch.no_grad()
def equal(gramian: Tensor, min_relative_norm: float = 0.0) -> Solution:
    """Return the solution for α = 0: weight 1 for active tasks; arguments as in `newton`."""
    check_gramian(gramian)
    values = to_array(gramian)
    problem = prepare(values, None, min_relative_norm)
    xp = namespace(values)
    # For α → 0 the residual of w = 1 vanishes whatever the progress; `make_solution` measures it at
    # α = 1, so it is set to 0 below.
    ones = xp.diagonal(problem.gramian, 0, -2, -1) * 0 + 1
    solution = make_solution(problem, ones, 1.0, gramian, problem.valid)
    return solution._replace(
        residual=torch.where(solution.converged, solution.residual * 0, torch.nan)
    )


def _residuals(progress: Array, weights: Array, alpha: float) -> Array:
    return abs(progress * weights ** (1 / alpha) - 1)


@torch.no_grad()
def relative_residual(
    gramian: Tensor, weights: Tensor, alpha: float, active: Tensor | None = None
) -> Tensor:
    """Measure how far weights are from solving the equation (without a ridge), free of units.

    Args:
        gramian: `[..., K, K]`.
        weights: `[..., K]`, not negative.
        alpha: positive.
        active: `[..., K]` bool; other tasks are left out.

    Returns:
        `[...]` float64, the largest `|(Mw)_i · w_i^(1/α) − 1|` of an active task: 0 at the solution
        and where no task is active, at least 1 where a task makes no progress. For α well below 1
        it can be very large although the direction is correct to all digits: the progress of a
        conflicting task, `(Mw)_i = w_i^(−1/α)`, is then smaller than rounding errors.
    """
    weights = weights.double()
    residual = _residuals(matvec(gramian.double(), weights), weights, alpha)
    return (residual if active is None else torch.where(active, residual, 0.0)).amax(-1)
