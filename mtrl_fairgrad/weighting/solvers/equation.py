"""The α-fair equation itself: what all solvers take and answer, and what they are measured by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """A solver's answer."""

    weights: Tensor
    """`[..., K]`, positive for active tasks, 0 for others."""
    residual: Tensor
    """`[...]` float64, the `relative_residual` before the weights are rounded to the Gramian's dtype."""
    converged: Tensor
    """`[...]` bool."""


class Prepared(NamedTuple):
    """A batch of problems without the entries that must not matter."""

    gramian: Tensor
    """`[..., K, K]` float64; inactive tasks' rows and columns are 0, non-finite elements the identity."""
    active: Tensor
    """`[..., K]` bool; False where the gradient is zero."""
    valid: Tensor
    """`[...]` bool; False where the Gramian is not finite."""


def prepare(gramian: Tensor, active: Tensor | None) -> Prepared:
    """Check and clean a solver's arguments: `gramian` `[..., K, K]`, `active` `[..., K]` bool or None.

    Raises:
        ValueError: shapes other than these.
    """
    if gramian.ndim < 2 or gramian.shape[-1] != gramian.shape[-2] or not gramian.shape[-1]:
        raise ValueError(
            f"A Gramian of shape {tuple(gramian.shape)} is not allowed: give [..., K, K], the inner products "
            "of K task gradients."
        )
    gramian = gramian.detach().double()
    valid = gramian.isfinite().all(-1).all(-1)
    eye = torch.eye(gramian.shape[-1], dtype=gramian.dtype, device=gramian.device)
    gramian = torch.where(valid[..., None, None], gramian, eye)
    positive = gramian.diagonal(dim1=-2, dim2=-1) > 0
    active = positive if active is None else active & positive
    pairs = active[..., :, None] & active[..., None, :]
    return Prepared(torch.where(pairs, gramian, 0.0), active, valid)


def finish(problem: Prepared, weights: Tensor, alpha: float, dtype: torch.dtype, converged: float | Tensor) -> Solution:
    """The answer to a prepared problem: clean up the weights, measure and round them.

    Args:
        problem: what was solved.
        weights: `[..., K]` float64; those of inactive tasks do not matter.
        alpha: positive.
        dtype: the Gramian's.
        converged: `[...]` bool, or the largest relative residual that counts.
    """
    weights = torch.where(problem.active, weights, 0.0)
    residual = relative_residual(problem.gramian, weights, alpha, problem.active)
    if not isinstance(converged, Tensor):
        converged = residual <= converged
    weights = torch.where(problem.valid[..., None], weights, torch.nan)
    residual = torch.where(problem.valid, residual, torch.nan)
    return Solution(weights.to(torch.promote_types(dtype, torch.float32)), residual, converged & problem.valid)


@torch.no_grad()
def relative_residual(gramian: Tensor, weights: Tensor, alpha: float, active: Tensor | None = None) -> Tensor:
    """How far weights are from solving the equation (without any ridge), free of units.

    Args:
        gramian: `[..., K, K]`.
        weights: `[..., K]`, not negative.
        alpha: positive.
        active: `[..., K]` bool; other tasks are left out.

    Returns:
        `[...]` float64, the largest `|(Mw)_i · w_i^(1/α) − 1|` of an active task: 0 at the solution and
        where no task is active, at least 1 where a task makes no progress. For α well below 1 it can be
        astronomically large beside a direction correct to all digits: a conflicting task's progress `(Mw)_i
        = w_i^(−1/α)` is then too small to be told from rounding.
    """
    weights = weights.double()
    progress = (gramian.double() @ weights[..., None])[..., 0]
    residual = (progress * weights.pow(1 / alpha) - 1).abs()
    return (residual if active is None else torch.where(active, residual, 0.0)).amax(-1)
