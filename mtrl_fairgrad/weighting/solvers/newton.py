"""The exact solver of the α-fair equation.

Gradients are equilibrated first: the iteration sees their cosines C and, separately, their norms. A
ridge on the diagonal of C makes the result defined for every Gramian: none while all eigenvalues of
C exceed 1e-6 (1e-5 for float32 Gramians), otherwise 1e-8 (1e-7), more only where rounding made C
indefinite by over half of that.

Up to a condition number of C of 1e6, a float64 Gramian gets the exact direction to within 1e-4°.
The rounding of a float32 Gramian itself costs more, some 0.001° at 1e4 and 0.1° at 1e6.

Where the equation has no solution (Pareto stationarity: some gradients cancel), weights are finite,
large, and such that the direction vanishes as the ridge does, the slower the larger α. Near such
points the ridge can change `(Mw)_i` of conflicting tasks, though hardly the direction: some `g_iᵀd`
may be negative. In both cases `residual` is large and `converged` False. So they are for a few
problems at α ≥ 15 with gradient norms over ten decades, where rounding stops the iteration.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_choice
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers import fused
from mtrl_fairgrad.weighting.solvers.arrays import Array, ignore_fp_warnings, matvec, to_array
from mtrl_fairgrad.weighting.solvers.equation import Solution, make_solution
from mtrl_fairgrad.weighting.solvers.problem import (
    Equilibrated,
    check_gramian,
    equilibrate,
    prepare,
)
from mtrl_fairgrad.weighting.solvers.safeguarded import SETTLED, Objective, Point

Form = Literal["host", "kernel"]

UNSAFEGUARDED_STEPS = 12
"""Newton steps that are tried without safeguard; they take a third of the time."""

NEGLIGIBLE = 1e-20
"""Part of every task's progress along d below which a term of the sum vanishes in it."""

_lapack: Any = linalg.lapack  # compiled, without type annotations


@torch.no_grad()
def newton(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    form: Form | None = None,
    min_relative_norm: float = 0.0,
    start: Tensor | None = None,
) -> Solution:
    """Solve the equation exactly by Newton iterations on the logarithms of the weights.

    Args:
        gramian: `[..., K, K]`. A matrix that is not a Gramian (one that needs a ridge above 0.1) is
            treated like a non-finite one.
        alpha: positive.
        active: `[..., K]` bool.
        form: `"host"` solves one problem after the other on the CPU, `"kernel"` all at once in one
            launch on a GPU. By default the kernel where it is usable.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.
        start: `[..., K]`, weights near the solution, such as those of similar gradients, to save
            iterations; where they are not positive and finite, or farther off than the usual
            start, that is taken.

    Returns:
        A solution of the equation with the ridge, whose `residual` and `converged` are those of the
        equation without it.

    Raises:
        ValueError: a Gramian that is not `[..., K, K]`, or a form that does not exist.
    """
    check_gramian(gramian)
    if form is not None:
        check_choice("form", form, get_args(Form))
    if form == "kernel" or (form is None and fused.is_usable(gramian)):
        solve = partial(fused.newton, gramian, alpha, active, min_relative_norm, start)
        solution = solve() if form == "kernel" else fused.attempt(solve)
        if solution is not None:
            return solution
    return newton_on_host(gramian, alpha, active, min_relative_norm, start)


@on_host
@ignore_fp_warnings
def newton_on_host(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    min_relative_norm: float,
    start: Tensor | None,
) -> Solution:
    """Solve one problem after the other through LAPACK; arguments as in `newton`."""
    problem = prepare(
        to_array(gramian), None if active is None else active.numpy(), min_relative_norm
    )
    scaled = equilibrate(problem, gramian.dtype)
    # Scaling all gradients by c scales w by c^(−2α/(1+α)). The common scale is divided out so that
    # nothing overflows.
    shift = 2 * alpha / (1 + alpha) * scaled.centre
    first = None
    if start is not None:
        first = np.where(problem.active, np.log(to_array(start)) + shift, 0.0)
    log_weights = np.empty(scaled.log_norms.shape)
    for index in np.ndindex(problem.valid.shape):
        log_weights[index] = _solve_by_lapack(
            scaled.cosines[index],
            scaled.log_norms[index],
            1 / alpha,
            None if first is None else first[index],
        )
    log_weights = _vanishing_weights(scaled, log_weights, alpha) - shift
    problem = problem._replace(valid=scaled.valid)
    return make_solution(problem, np.exp(log_weights), alpha, gramian.dtype, log_weights)


def _vanishing_weights(scaled: Equilibrated, log_weights: Array, alpha: float) -> Array:
    """Correct log-weights too small to contribute to any `(Mw)_j`: they are `(Mw)_i^(−α)`.

    Φ does not depend on them within rounding, and the iteration holds them at `LOWEST`.
    """
    log_lengths = log_weights + scaled.log_norms
    if not (log_lengths < np.amax(log_lengths, -1)[..., None] + math.log(NEGLIGIBLE)).any():
        return log_weights
    lengths = np.exp(log_lengths)
    progress = matvec(scaled.cosines, lengths)
    largest = NEGLIGIBLE * np.amin(abs(progress), -1)[..., None]
    below = -alpha * (np.log(np.where(progress > 0, progress, 1.0)) + scaled.log_norms)
    vanishes = (progress > 0) & (lengths < largest) & (np.exp(below + scaled.log_norms) < largest)
    wrong = abs(below - log_weights) > alpha * SETTLED
    return np.where(vanishes & wrong, below, log_weights)


def _solve_by_lapack(cosines: Array, log_norms: Array, p: float, first: Array | None) -> Array:
    """Solve one equation.

    First by Newton steps for equal logarithms of the two sides without any safeguard: the equation
    has one solution, so whatever solves it is correct. Most problems need no more.

    Args:
        cosines: `[K, K]`, symmetric positive definite with ridged unit diagonal.
        log_norms: `[K]`, logarithms of the gradient norms, centred near zero.
        p: 1/α, positive.
        first: log-weights `[K]` to start at where nearer to the solution than the usual start.

    Returns:
        The log-weights `[K]`.
    """
    objective = Objective(cosines, log_norms, p)
    point = objective.start()
    if first is not None and np.isfinite(first).all():
        point = min(point, objective.at(first), key=_error)
    x = point.x
    for _ in range(UNSAFEGUARDED_STEPS):
        u = np.exp(x + log_norms)
        lhs = u * (cosines @ u)
        gap = (1 - p) * x - np.log(lhs)
        size = np.abs(gap).max()
        if not size < np.inf:
            break
        system, right = objective.system(u, lhs), lhs * gap / u
        _, step, info = _lapack.dposv(system, right, lower=1, overwrite_a=1)
        if info != 0 or not np.isfinite(step).all():
            break
        x = x + step / u
        if size <= SETTLED:
            point = min(point, objective.at(x), key=_error)
            break
    return objective.minimize(point).x


def _error(point: Point) -> float:
    return point.error
