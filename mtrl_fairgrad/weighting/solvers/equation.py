"""The α-fair equation: solution type, residual, and the solution for α = 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers.arrays import Array, ignore_fp_warnings, matvec, to_array
from mtrl_fairgrad.weighting.solvers.problem import Problem, check_gramian, prepare

ACCURACY = 1e-12
"""Relative error of a weight that float64 allows for; that of `(Mw)_i` is as large a part of the
terms that it sums, and more than the sum where they cancel."""
SOLVED = 1e-3
"""Relative residual up to which the equation counts as solved, by any solver."""


TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}
"""Smallest normal numbers."""


class Solution(NamedTuple):
    """Result of a solver."""

    weights: Tensor
    """`[..., K]`, positive for active tasks, 0 for others.

    The smallest normal number of the dtype stands for any weight below it, as large α can require.
    """
    residual: Tensor
    """`[...]` float64, the `relative_residual` of the weights before they are rounded to the
    Gramian's dtype, less what rounding in float64 accounts for where the terms of `(Mw)_i` cancel.
    """
    converged: Tensor
    """`[...]` bool: the residual is at most `SOLVED`. False where the equation has no solution
    (Pareto stationarity).
    """
    min_progress: Tensor
    """`[...]` float64, the smallest `g_iᵀd` of an active task; 0 where no task is active."""
    active: Tensor
    """`[..., K]` bool, False for tasks left out."""


def make_solution(
    problem: Problem,
    weights: Array,
    alpha: float,
    dtype: torch.dtype,
    log_weights: Array | None = None,
) -> Solution:
    """Mask, measure and round the weights of a solved problem.

    Args:
        problem: what was solved.
        weights: `[..., K]`; those of inactive tasks are ignored.
        alpha: positive.
        dtype: of the original Gramian.
        log_weights: `[..., K]`, the logarithms of the weights, for those that float64 cannot hold.
    """
    weights = np.where(problem.active, weights, 0.0)
    progress = matvec(problem.gramian, weights)
    power = weights ** (1 / alpha)
    dtype = torch.promote_types(dtype, torch.float32)
    small = problem.active & (weights < TINY[dtype])
    if small.any():
        if log_weights is not None:
            held = weights >= TINY[torch.float64]
            power = np.where(held, power, np.exp(log_weights / alpha))
        weights = np.where(small, TINY[dtype], weights)
    rounding = ACCURACY * matvec(abs(problem.gramian), weights)
    residuals = np.where(problem.active, abs(progress * power - 1) - rounding * power, 0.0)
    # Where the power overflows, `w^(−1/α)` is 0 beside the terms of `Mw`.
    overflown = power == np.inf
    if overflown.any():
        unsolved = np.where(abs(progress) > rounding, np.inf, 0.0)
        residuals = np.where(overflown, unsolved, residuals)
    residual = np.clip(np.amax(residuals, -1), 0.0, None)
    smallest = np.amin(np.where(problem.active, progress, np.inf), -1)
    smallest = np.where(np.any(problem.active, -1), smallest, 0.0)
    valid = problem.valid
    return Solution(
        torch.as_tensor(np.where(valid[..., None], weights, np.nan)).to(dtype),
        torch.as_tensor(np.where(valid, residual, np.nan)),
        torch.as_tensor((residual <= SOLVED) & valid),
        torch.as_tensor(np.where(valid, smallest, np.nan)),
        torch.as_tensor(problem.active & valid[..., None]),
    )


@torch.no_grad()
@on_host
@ignore_fp_warnings
def equal(gramian: Tensor, min_relative_norm: float = 0.0) -> Solution:
    """Return the solution for α = 0: weight 1 for active tasks; arguments as in `newton`."""
    check_gramian(gramian)
    problem = prepare(to_array(gramian), None, min_relative_norm)
    # For α → 0 the residual of w = 1 vanishes whatever the progress; `make_solution` measures it at
    # α = 1, so it is set to 0 below.
    solution = make_solution(problem, np.ones(problem.active.shape), 1.0, gramian.dtype)
    converged = torch.as_tensor(problem.valid)
    return solution._replace(
        residual=torch.where(converged, 0.0, torch.nan).double(), converged=converged
    )


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
    progress = (gramian.double() @ weights[..., None])[..., 0]
    residual = (progress * weights ** (1 / alpha) - 1).abs()
    return (residual if active is None else torch.where(active, residual, 0.0)).amax(-1)
