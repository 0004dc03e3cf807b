"""The two solvers of the paper's published code, for comparison with the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from mtrl_fairgrad.weighting.solvers.equation import Prepared, Solution, finish, prepare

SOLVED = 1e-3
"""Relative residual up to which these solvers count as converged."""
EPSILON = 1e-8
"""Added to the weights where `sgd` takes their power, and their lower bound there."""

_optimize: Any = optimize  # neither these functions
_linalg: Any = torch.linalg  # nor these have type annotations


@torch.no_grad()
def sgd(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    *,
    steps: int = 20,
    learning_rate: float = 0.1,
    momentum: float = 0.5,
    max_norm: float = 1.0,
) -> Solution:
    """The paper's fast solver: a few clipped gradient steps on `‖Mw − (w + ε)^(−1/α)‖²`, from equal weights.

    Start `w = 1/K` (K counts active tasks), gradient clipped to `max_norm`, momentum, then `w` clamped at ε
    = 1e-8; the answer is the iterate with the lowest objective among those before each step. It works on
    the Gramian as it is and knows no units, so the answer depends on the scale of the gradients. Clipped
    steps bound how far w can move from its start, in norm: 3.6 with the default values.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.
        steps: at least 1.
        learning_rate: positive.
        momentum: in [0, 1).
        max_norm: positive; gradients are clipped to this norm.

    Returns:
        `converged`: relative residual at most 1e-3, which is rare.
    """
    problem = prepare(gramian, active)
    count = problem.active.double().sum(-1, keepdim=True).clamp(min=1)
    weights = torch.where(problem.active, count.reciprocal(), 0.0)
    best, lowest = weights, torch.full_like(count, torch.inf)
    velocity = torch.zeros_like(weights)
    for _ in range(steps):
        objective, gradient = _objective(problem, weights, 1 / alpha)
        best = torch.where(objective < lowest, weights, best)
        lowest = torch.minimum(objective, lowest)
        norm: Tensor = _linalg.vector_norm(gradient, dim=-1, keepdim=True)
        velocity = momentum * velocity + gradient * (max_norm * (norm + 1e-6).reciprocal()).clamp(max=1.0)
        weights = (weights - learning_rate * velocity).clamp(min=EPSILON)
    return finish(problem, best, alpha, gramian.dtype, converged=SOLVED)


def _objective(problem: Prepared, weights: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """What `sgd` minimises, `[..., 1]`, and its gradient `[..., K]`."""
    power = (weights + EPSILON).pow(-p)
    error = torch.where(problem.active, (problem.gramian @ weights[..., None])[..., 0] - power, 0.0)
    pull = (problem.gramian @ error[..., None])[..., 0]
    gradient = 2 * (pull + p * power / (weights + EPSILON) * error)
    return error.square().sum(-1, keepdim=True), gradient


@torch.no_grad()
def least_squares(gramian: Tensor, alpha: float, active: Tensor | None = None) -> Solution:
    """The paper's solver for supervised learning: `scipy.optimize.least_squares` on `Mw − w^(−1/α)`, `w ≥ 0`.

    From `w = 1/K` (K counts active tasks), with SciPy's default tolerances, on the Gramian as it is. It
    brings the Gramian to the CPU (a synchronisation on a GPU) and loops over the leading axes.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.

    Returns:
        `converged`: relative residual at most 1e-3, whatever SciPy reports. NaN weights where `(1/K)^(−1/α)`
        overflows, so that SciPy refuses to start (α of a thousandth).
    """
    problem = prepare(gramian, active)
    tasks = gramian.shape[-1]
    matrices = problem.gramian.reshape(-1, tasks, tasks).cpu().numpy()
    masks = problem.active.reshape(-1, tasks).cpu().numpy()
    weights = np.zeros(masks.shape)
    for row, matrix, mask in zip(weights, matrices, masks, strict=True):
        if mask.any():
            row[mask] = _least_squares_one(matrix[np.ix_(mask, mask)], 1 / alpha)
    found = torch.as_tensor(weights).to(gramian.device).reshape(gramian.shape[:-1])
    return finish(problem, found, alpha, gramian.dtype, converged=SOLVED)


def _least_squares_one(matrix: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    def error(w: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix @ w - w**-p

    start = np.full(len(matrix), 1 / len(matrix))
    try:
        with np.errstate(all="ignore"):
            found = _optimize.least_squares(error, start, bounds=(0, np.inf)).x
    except ValueError:  # overflow at the start
        found = np.full(len(matrix), np.nan)
    return np.asarray(found, dtype=np.float64)
