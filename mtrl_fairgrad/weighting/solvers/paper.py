"""The two solvers of the paper's published code, for comparison with `newton`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers import fused, published_sgd
from mtrl_fairgrad.weighting.solvers.arrays import Array, ignore_fp_warnings, matvec, to_array
from mtrl_fairgrad.weighting.solvers.equation import Solution, make_solution
from mtrl_fairgrad.weighting.solvers.problem import Problem, check_gramian, prepare
from mtrl_fairgrad.weighting.solvers.published_sgd import EPSILON, Steps

Precision = Literal["float32", "float64"]


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
    min_relative_norm: float = 0.0,
    precision: Precision = "float32",
) -> Solution:
    """Run the paper's fast solver: a few clipped gradient steps on `‖Mw − (w + ε)^(−1/α)‖²`.

    Starts at `w = 1/K` (K counts active tasks). Each step clips the gradient to `max_norm`, applies
    momentum and clamps `w` at ε = 1e-8; the result is the iterate with the lowest objective before
    any step. The Gramian is not normalised, so the result depends on the scale of the gradients.
    Clipping limits the distance of w from its start, in norm: 3.6 with the default values.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.
        steps: at least 1.
        learning_rate: positive.
        momentum: in [0, 1).
        max_norm: positive; gradients are clipped to this norm.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.
        precision: `"float32"` is the published code's, bit for bit on a CPU; `"float64"` computes
            the same without overflow, which gives other directions at α ≤ 1 and where gradients
            are large.

    Returns:
        A solution whose `converged` means a relative residual of at most 1e-3, which is rare.
    """
    check_gramian(gramian)
    if fused.is_usable(gramian):
        solve = partial(
            fused.sgd,
            gramian,
            alpha,
            active,
            steps=steps,
            learning_rate=learning_rate,
            momentum=momentum,
            max_norm=max_norm,
            min_relative_norm=min_relative_norm,
            single=precision == "float32",
        )
        solution = fused.attempt(solve)
        if solution is not None:
            return solution
    options = Steps(steps, learning_rate, momentum, max_norm)
    return sgd_on_host(gramian, alpha, active, options, min_relative_norm, precision)


@on_host
@ignore_fp_warnings
def sgd_on_host(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    options: Steps,
    min_relative_norm: float,
    precision: Precision,
) -> Solution:
    """Run the steps of `sgd`; arguments as there."""
    problem = prepare(
        to_array(gramian), None if active is None else active.numpy(), min_relative_norm
    )
    solve = _sgd_float32 if precision == "float32" else _sgd_float64
    return make_solution(problem, solve(problem, 1 / alpha, options), alpha, gramian.dtype)


def _sgd_float32(problem: Problem, p: float, options: Steps) -> Array:
    """Return the weights `[..., K]` of the published code, one problem after the other."""
    weights = np.zeros(problem.active.shape)
    for index in np.ndindex(weights.shape[:-1]):
        mask = problem.active[index]
        if mask.any():
            matrix = torch.as_tensor(problem.gramian[index][np.ix_(mask, mask)]).float()
            weights[index][mask] = published_sgd.solve(matrix, p, options).numpy()
    return weights


def _sgd_float64(problem: Problem, p: float, options: Steps) -> Array:
    """Return the weights `[..., K]` of the same steps in float64."""
    count = np.sum(problem.active, -1)[..., None]
    weights = problem.active / np.where(count > 0, count, 1)
    best, lowest = weights, np.inf
    velocity = np.zeros_like(weights)
    for _ in range(options.steps):
        objective, gradient = _objective(problem, weights, p)
        best = np.where(objective < lowest, weights, best)
        lowest = np.where(objective < lowest, objective, lowest)
        norm = np.sqrt(np.sum(gradient * gradient, -1))[..., None]
        scale = np.clip(options.max_norm / (norm + 1e-6), None, 1.0)
        velocity = options.momentum * velocity + gradient * scale
        weights = np.clip(weights - options.learning_rate * velocity, EPSILON, None)
    return best


def _objective(problem: Problem, weights: Array, p: float) -> tuple[Array, Array]:
    """Return the objective of `sgd` in float64, `[..., 1]`, and its gradient `[..., K]`."""
    power = (weights + EPSILON) ** -p
    error = np.where(problem.active, matvec(problem.gramian, weights) - power, 0.0)
    gradient = 2 * (matvec(problem.gramian, error) + p * power / (weights + EPSILON) * error)
    return np.sum(error * error, -1)[..., None], gradient


@torch.no_grad()
@on_host
@ignore_fp_warnings
def least_squares(
    gramian: Tensor, alpha: float, active: Tensor | None = None, min_relative_norm: float = 0.0
) -> Solution:
    """Run the paper's solver for supervised learning, `scipy.optimize.least_squares`.

    Minimises `Mw − w^(−1/α)`, `w ≥ 0`, from `w = 1/K` (K counts active tasks) with SciPy's default
    tolerances. The Gramian is not normalised.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.

    Returns:
        A solution whose `converged` means a relative residual of at most 1e-3, whatever SciPy
        reports. Weights are NaN where `(1/K)^(−1/α)` overflows, so that SciPy refuses to start
        (α of a thousandth).
    """
    check_gramian(gramian)
    tasks = gramian.shape[-1]
    problem = prepare(
        to_array(gramian), None if active is None else active.numpy(), min_relative_norm
    )
    weights = np.zeros(problem.active.shape)
    matrices = problem.gramian.reshape(-1, tasks, tasks)
    for index, matrix in zip(np.ndindex(weights.shape[:-1]), matrices, strict=True):
        mask = problem.active[index]
        if mask.any():
            weights[index][mask] = _least_squares_one(matrix[np.ix_(mask, mask)], 1 / alpha)
    return make_solution(problem, weights, alpha, gramian.dtype)


def _least_squares_one(matrix: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    def error(w: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix @ w - w**-p

    # Imported here: it takes as long as the rest of the library.
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    scipy_optimize: Any = optimize  # without type annotations
    start = np.full(len(matrix), 1 / len(matrix))
    try:
        solution = scipy_optimize.least_squares(error, start, bounds=(0, np.inf)).x
    except ValueError:  # overflow at the start
        solution = np.full(len(matrix), np.nan)
    return np.asarray(solution, dtype=np.float64)
