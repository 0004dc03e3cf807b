"""The α-fair equation itself: what its solvers take and answer, and what they are measured by."""

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
    """A solver's answer."""

    weights: Tensor
    """`[..., K]`, positive for active tasks, 0 for others."""
    residual: Tensor
    """`[...]` float64, the `relative_residual` before the weights are rounded to the Gramian's
    dtype.
    """
    converged: Tensor
    """`[...]` bool."""
    min_progress: Tensor
    """`[...]` float64, the smallest `g_iᵀd` of an active task; 0 where no task is active."""
    active: Tensor
    """`[..., K]` bool, False for tasks left out."""


def make_solution(
    problem: Problem, weights: Array, alpha: float, like: Tensor, converged: float | Array
) -> Solution:
    """The answer to a prepared problem: clean up the weights, measure and round them.

    Args:
        problem: what was solved.
        weights: `[..., K]`; those of inactive tasks do not matter.
        alpha: positive.
        like: the Gramian as it came, for dtype and device.
        converged: `[...]` bool, or the largest relative residual that counts.
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
    found = (
        to_tensor(xp.where(invalid[..., None], xp.nan, weights)).to(
            torch.promote_types(like.dtype, torch.float32)
        ),
        to_tensor(xp.where(invalid, xp.nan, residual)),
        to_tensor(converged & problem.valid),
        to_tensor(xp.where(invalid, xp.nan, smallest)),
        to_tensor(problem.active & problem.valid[..., None]),
    )
    return Solution(*(tensor.to(like.device) for tensor in found))


@ignore_fp_warnings
@torch.no_grad()
def equal(gramian: Tensor, min_relative_norm: float = 0.0) -> Solution:
    """The answer for α = 0, known without solving: weight 1 for active tasks; arguments as of
    `newton`.
    """
    check_gramian(gramian)
    values = to_array(gramian)
    problem = prepare(values, None, min_relative_norm)
    xp = namespace(values)
    # With w = 1 the residual vanishes in the limit whatever the progress; measured at α = 1 it
    # would not.
    ones = xp.diagonal(problem.gramian, 0, -2, -1) * 0 + 1
    found = make_solution(problem, ones, 1.0, gramian, problem.valid)
    return found._replace(residual=torch.where(found.converged, found.residual * 0, torch.nan))


def _residuals(progress: Array, weights: Array, alpha: float) -> Array:
    return abs(progress * weights ** (1 / alpha) - 1)


@torch.no_grad()
def relative_residual(
    gramian: Tensor, weights: Tensor, alpha: float, active: Tensor | None = None
) -> Tensor:
    """How far weights are from solving the equation (without any ridge), free of units.

    Args:
        gramian: `[..., K, K]`.
        weights: `[..., K]`, not negative.
        alpha: positive.
        active: `[..., K]` bool; other tasks are left out.

    Returns:
        `[...]` float64, the largest `|(Mw)_i · w_i^(1/α) − 1|` of an active task: 0 at the solution
        and where no task is active, at least 1 where a task makes no progress. For α well below 1
        it can be astronomically large beside a direction correct to all digits: a conflicting
        task's progress `(Mw)_i = w_i^(−1/α)` is then too small to be told from rounding.
    """
    weights = weights.double()
    residual = _residuals(matvec(gramian.double(), weights), weights, alpha)
    return (residual if active is None else torch.where(active, residual, 0.0)).amax(-1)
