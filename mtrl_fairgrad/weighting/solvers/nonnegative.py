"""Strictly convex quadratic programmes over non-negative variables: what MGDA, CAGrad and UPGrad
come down to.

    min ½ uᵀCu − qᵀu,   u ≥ 0

with C a (ridged) cosine matrix. At the solution some variables are free, with `(Cu − q)_i = 0`, the
others 0, with `(Cu − q)_i ≥ 0`. Block principal pivoting guesses which are free, solves for them,
and exchanges all variables that contradict the guess; when that stops helping, only one of them,
after which it cannot cycle (Júdice and Pires, "A block principal pivoting algorithm for large-scale
strictly monotone linear complementarity problems", 1994). What it ends with is exact: the solution
of a linear system. The few problems it has not solved after `rounds` exchanges, all of many
gradients in few dimensions, go to SciPy's slower active-set method if they are on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg, optimize  # pyright: ignore[reportMissingTypeStubs]

from mtrl_fairgrad.weighting.solvers.arrays import (
    Array,
    eye_like,
    matvec,
    namespace,
    on_host,
    solve,
)

PATIENCE = 3
"""Exchanges of whole blocks that may fail to lower the number of contradictions."""
ROUNDING = 1e-13
"""Size of what counts as zero, relative to the terms that were summed."""

_linalg: Any = linalg  # without type annotations
_optimize: Any = optimize


ROUNDS_WITH_GUESS = 6
"""Exchanges on a device that start from a good guess."""


def rounds(tasks: int) -> int:
    """How many exchanges are made at most, and on a device always; most problems need fewer than
    ten.
    """
    return 20 + 2 * tasks


def minimise(cosines: Array, pull: Array, guess: Array = None) -> tuple[Array, Array]:
    """Solve a batch of programmes.

    Args:
        cosines: C, `[..., K, K]`, symmetric positive definite with a diagonal near 1.
        pull: q, `[..., K]`; variables with a negative one and no positive partner stay 0.
        guess: `[..., K]` bool, which variables are not 0, if something is known about it.

    Returns:
        `u` `[..., K]` and `free` `[..., K]`, the guess that proved right.
    """
    xp = namespace(pull)
    free: Array = pull > 0 if guess is None else guess
    eye, sizes = eye_like(cosines), abs(cosines)
    memory, left = None, rounds(pull.shape[-1])
    if guess is not None and not on_host(pull):
        left = ROUNDS_WITH_GUESS
    while True:
        u = solve(
            xp.where(free[..., :, None] & free[..., None, :], cosines, eye),
            xp.where(free, pull, 0.0),
        )
        magnitude = abs(u)
        noise = ROUNDING * (matvec(sizes, magnitude) + abs(pull))
        slightly = ROUNDING * xp.amax(magnitude, -1)[..., None]
        wrong = xp.where(free, u < -slightly, matvec(cosines, u) - pull < -noise)
        if left == 0 or (on_host(wrong) and not wrong.any()):
            break
        free, memory = _exchange(free, wrong, memory)
        left -= 1
    if on_host(pull) and left == 0:
        _search(cosines, pull, u, free, xp.any(wrong, -1))
    return xp.where(free & (u > 0), u, 0.0), free


def _exchange(
    free: Array, wrong: Array, memory: tuple[Array, Array] | None
) -> tuple[Array, tuple[Array, Array]]:
    """The next guess: with all wrong variables exchanged, or where that has stopped helping with
    the last of them.

    Args:
        free: the guess, `[..., K]` bool.
        wrong: where it was contradicted.
        memory: the fewest contradictions so far and the patience that is left, both `[...]`, after
            the first exchange.
    """
    xp = namespace(wrong)
    count = xp.sum(wrong, -1)
    fewest, patience = memory or (count + 1, count * 0)
    better = count < fewest
    whole = better | (patience > 0)
    places = xp.cumsum(wrong | True, -1)
    last = places == xp.amax(xp.where(wrong, places, 0), -1)[..., None]  # Murty's rule
    memory = xp.where(better, count, fewest), xp.where(better, PATIENCE, patience - 1)
    return free ^ (wrong & (whole[..., None] | last)), memory


def _search(cosines: Array, pull: Array, u: Array, free: Array, unsolved: Array) -> None:
    """Overwrite `u` and `free` where `unsolved` by what SciPy finds, as a least-squares problem
    with a factor of C.
    """
    matrices = np.broadcast_to(cosines, (*u.shape, u.shape[-1]))
    for place in np.ndindex(u.shape[:-1]):
        if unsolved[place]:
            factor = np.linalg.cholesky(matrices[place])
            target = _linalg.solve_triangular(factor, pull[place], lower=True)
            u[place] = _optimize.nnls(factor.T, target, maxiter=100 * u.shape[-1])[0]
            free[place] = u[place] > 0
