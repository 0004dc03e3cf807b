"""Strictly convex quadratic programmes over non-negative variables, for MGDA, CAGrad and UPGrad.

    min ½ uᵀCu − qᵀu,   u ≥ 0

with C a (ridged) cosine matrix. At the solution some variables are free, with `(Cu − q)_i = 0`, the
others 0, with `(Cu − q)_i ≥ 0`. Block principal pivoting guesses which are free, solves for them,
and exchanges all variables that contradict the guess; when that stops helping it exchanges only one
of them, which cannot cycle (Júdice and Pires, "A block principal pivoting algorithm for large-scale
strictly monotone linear complementarity problems", 1994). The result is exact: the solution of a
linear system. The few problems that are unsolved after `max_exchanges`, all of many gradients in
few dimensions, are solved by SciPy's slower active-set method if they are on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]

from mtrl_fairgrad.weighting.solvers.arrays import (
    Array,
    eye_like,
    matvec,
    namespace,
    on_host,
    solve,
)

PATIENCE = 3
"""Number of block exchanges that may fail to lower the number of contradictions."""
ROUNDING = 1e-13
"""Size of rounding errors relative to the summed terms."""

_linalg: Any = linalg  # without type annotations


EXCHANGES_WITH_GUESS = 6
"""Number of exchanges on a device when a good guess is given."""


def max_exchanges(tasks: int) -> int:
    """Return the number of exchanges on a device, which is the maximum on the host.

    There most problems need fewer than ten.
    """
    return 20 + 2 * tasks


def minimise(cosines: Array, linear: Array, guess: Array = None) -> tuple[Array, Array]:
    """Solve a batch of programmes.

    Args:
        cosines: C, `[..., K, K]`, symmetric positive definite with a diagonal near 1.
        linear: q, `[..., K]`; variables with a negative one and no positive cosine to a free
            variable stay 0.
        guess: `[..., K]` bool, which variables are probably not 0.

    Returns:
        `u` `[..., K]` and `free` `[..., K]` bool, where u is not 0.
    """
    xp = namespace(linear)
    free: Array = linear > 0 if guess is None else guess
    eye, sizes = eye_like(cosines), abs(cosines)
    memory, left = None, max_exchanges(linear.shape[-1])
    if guess is not None and not on_host(linear):
        left = EXCHANGES_WITH_GUESS
    while True:
        u = solve(
            xp.where(free[..., :, None] & free[..., None, :], cosines, eye),
            xp.where(free, linear, 0.0),
        )
        magnitude = abs(u)
        noise = ROUNDING * (matvec(sizes, magnitude) + abs(linear))
        tolerance = ROUNDING * xp.amax(magnitude, -1)[..., None]
        wrong = xp.where(free, u < -tolerance, matvec(cosines, u) - linear < -noise)
        if left == 0 or (on_host(wrong) and not wrong.any()):
            break
        free, memory = _exchange(free, wrong, memory)
        left -= 1
    if on_host(linear) and left == 0:
        _solve_by_nnls(cosines, linear, u, free, xp.any(wrong, -1))
    return xp.where(free & (u > 0), u, 0.0), free


def _exchange(
    free: Array, wrong: Array, memory: tuple[Array, Array] | None
) -> tuple[Array, tuple[Array, Array]]:
    """Exchange all wrong variables, or only the last of them where that has stopped helping.

    Args:
        free: the guess, `[..., K]` bool.
        wrong: where the solution contradicts the guess.
        memory: the fewest contradictions so far and the patience left, both `[...]`; None at the
            first exchange.

    Returns:
        The next guess and memory.
    """
    xp = namespace(wrong)
    count = xp.sum(wrong, -1)
    fewest, patience = memory or (count + 1, count * 0)
    better = count < fewest
    whole = better | (patience > 0)
    positions = xp.cumsum(wrong | True, -1)
    last = positions == xp.amax(xp.where(wrong, positions, 0), -1)[..., None]  # Murty's rule
    memory = xp.where(better, count, fewest), xp.where(better, PATIENCE, patience - 1)
    return free ^ (wrong & (whole[..., None] | last)), memory


def _solve_by_nnls(cosines: Array, linear: Array, u: Array, free: Array, unsolved: Array) -> None:
    """Overwrite `u` and `free` by SciPy's solution where `unsolved`.

    SciPy solves the equivalent least-squares problem with a factor of C.
    """
    # Imported here: it takes as long as the rest of the library.
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    scipy_optimize: Any = optimize  # without type annotations
    matrices = np.broadcast_to(cosines, (*u.shape, u.shape[-1]))
    for index in np.ndindex(u.shape[:-1]):
        if unsolved[index]:
            factor = np.linalg.cholesky(matrices[index])
            target = _linalg.solve_triangular(factor, linear[index], lower=True)
            u[index] = scipy_optimize.nnls(factor.T, target, maxiter=100 * u.shape[-1])[0]
            free[index] = u[index] > 0
