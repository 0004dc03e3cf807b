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

Time on one CPU core: the batched form took 16–32 times as long as LAPACK for one problem, 5–17
times for 8, and still 1.5–6 times for 2048 (K = 2 and 10).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import batched
from mtrl_fairgrad.weighting.solvers.arrays import (
    Array,
    ignore_fp_warnings,
    matvec,
    namespace,
    on_host,
    to_array,
)
from mtrl_fairgrad.weighting.solvers.equation import Solution, make_solution
from mtrl_fairgrad.weighting.solvers.problem import (
    Equilibrated,
    check_gramian,
    equilibrate,
    prepare,
)
from mtrl_fairgrad.weighting.solvers.safeguarded import SETTLED, Objective

Form = Literal["lapack", "batched"]

UNSAFEGUARDED_STEPS = 12
"""Newton steps that are tried without safeguard; they take a third of the time."""

NEGLIGIBLE = 1e-20
"""Part of every task's progress along d below which a term of the sum vanishes in it."""

_lapack: Any = linalg.lapack  # compiled, without type annotations


@ignore_fp_warnings
@torch.no_grad()
def newton(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    form: Form | None = None,
    min_relative_norm: float = 0.0,
) -> Solution:
    """Solve the equation exactly by Newton iterations on the logarithms of the weights.

    Args:
        gramian: `[..., K, K]`. A matrix that is not a Gramian (one that needs a ridge above 0.1) is
            treated like a non-finite one.
        alpha: positive.
        active: `[..., K]` bool.
        form: `"lapack"` solves one problem after the other on the CPU; `"batched"` all at once on
            their device, without synchronising. By default lapack for tensors on the CPU, where it
            is faster at any size, and batched for tensors on other devices and inside
            `torch.compile`.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.

    Returns:
        A solution of the equation with the ridge, whose `residual` and `converged` are those of the
        equation without it.

    Raises:
        ValueError: a Gramian that is not `[..., K, K]`.
    """
    check_gramian(gramian)
    values: Any = to_array(gramian) if form is None else gramian.detach().double()
    mask: Any = active
    if form == "lapack":
        values = values.cpu().numpy()
    if mask is not None and not isinstance(values, Tensor):
        mask = mask.cpu().numpy()
    xp = namespace(values)
    problem = prepare(values, mask, min_relative_norm)
    scaled = equilibrate(problem, gramian.dtype)
    if xp is torch:
        log_weights = batched.solve(scaled.cosines, scaled.log_norms, 1 / alpha)
    else:
        log_weights = np.empty(scaled.log_norms.shape)
        for index in np.ndindex(problem.valid.shape):
            log_weights[index] = _solve_by_lapack(
                scaled.cosines[index], scaled.log_norms[index], 1 / alpha
            )
    log_weights = _vanishing_weights(scaled, log_weights, alpha)
    # Scaling all gradients by c scales w by c^(−2α/(1+α)). The common scale was divided out so that
    # nothing overflows.
    log_weights = log_weights - 2 * alpha / (1 + alpha) * scaled.centre
    problem = problem._replace(valid=scaled.valid)
    return make_solution(problem, xp.exp(log_weights), alpha, gramian, log_weights)


def _vanishing_weights(scaled: Equilibrated, log_weights: Array, alpha: float) -> Array:
    """Correct log-weights too small to contribute to any `(Mw)_j`: they are `(Mw)_i^(−α)`.

    Φ does not depend on them within rounding, and the iteration holds them at `LOWEST`.
    """
    xp = namespace(log_weights)
    log_lengths = log_weights + scaled.log_norms
    apart = log_lengths < xp.amax(log_lengths, -1)[..., None] + math.log(NEGLIGIBLE)
    if on_host(apart) and not apart.any():
        return log_weights
    lengths = xp.exp(log_lengths)
    progress = matvec(scaled.cosines, lengths)
    largest = NEGLIGIBLE * xp.amin(abs(progress), -1)[..., None]
    below = -alpha * (xp.log(xp.where(progress > 0, progress, 1.0)) + scaled.log_norms)
    vanishes = (progress > 0) & (lengths < largest) & (xp.exp(below + scaled.log_norms) < largest)
    wrong = abs(below - log_weights) > alpha * SETTLED
    return xp.where(vanishes & wrong, below, log_weights)


def _solve_by_lapack(cosines: Array, log_norms: Array, p: float) -> Array:
    """Solve one equation.

    First by Newton steps for equal logarithms of the two sides without any safeguard: the equation
    has one solution, so whatever solves it is correct. Most problems need no more.

    Args:
        cosines: `[K, K]`, symmetric positive definite with ridged unit diagonal.
        log_norms: `[K]`, logarithms of the gradient norms, centred near zero.
        p: 1/α, positive.

    Returns:
        The log-weights `[K]`.
    """
    objective = Objective(cosines, log_norms, p)
    point = objective.start()
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
            point = min(point, objective.at(x), key=lambda candidate: candidate.error)
            break
    return objective.minimize(point).x
