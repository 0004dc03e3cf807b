"""Strictly convex quadratic programmes over non-negative variables, for MGDA, CAGrad and UPGrad.

    min ½ uᵀCu − qᵀu,   u ≥ 0

with C a (ridged) cosine matrix. At the solution some variables are free, with `(Cu − q)_i = 0`, the
others 0, with `(Cu − q)_i ≥ 0`. Block principal pivoting guesses which are free, solves for them,
and exchanges all variables that contradict the guess (Júdice and Pires, "A block principal pivoting
algorithm for large-scale strictly monotone linear complementarity problems", 1994). That stops
helping in some programmes of more gradients than dimensions, whose free variables SciPy's
active-set method finds. The result is exact: the solution of a linear system.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from mtrl_fairgrad.weighting.solvers.arrays import Array, matvec, solve

PATIENCE = 1
"""Number of exchanges that may fail to lower the number of contradictions: SciPy's method takes as
long as a few of them."""
MAX_EXCHANGES = 6
"""Largest number of exchanges."""
ROUNDING = 1e-13
"""Size of rounding errors relative to the summed terms."""

_numpy: Any = np  # its functions have too many type annotations


def minimise(cosines: Array, linear: Array, guess: Array | None = None) -> tuple[Array, Array]:
    """Solve a batch of programmes.

    Args:
        cosines: C, `[..., K, K]`, symmetric positive definite with a diagonal near 1.
        linear: q, `[..., K]`; variables with a negative one and no positive cosine to a free
            variable stay 0.
        guess: `[..., K]` bool, which variables are probably not 0.

    Returns:
        `u` `[..., K]` and `free` `[..., K]` bool, where u is not 0.
    """
    free: Array = linear > 0 if guess is None else guess
    u, wrong = _solve_for(free, cosines, linear)
    if wrong.any():
        u, free = _exchange(cosines, linear, u, free, wrong)
    return np.where(free & (u > 0), u, 0.0), free


def _exchange(
    cosines: Array, linear: Array, u: Array, free: Array, wrong: Array
) -> tuple[Array, Array]:
    """Exchange in each programme until it is solved or SciPy has to solve it.

    Args:
        cosines: as for `minimise`.
        linear: as for `minimise`.
        u: the solution for the first guess, `[..., K]`.
        free: the first guess, `[..., K]` bool.
        wrong: where u contradicts it.

    Returns:
        The solution and its free variables.
    """
    shape, tasks = u.shape, u.shape[-1]
    linear, u, free, wrong = (part.reshape(-1, tasks) for part in (linear, u, free.copy(), wrong))
    matrices: Array = cosines.reshape(-1, tasks, tasks)
    same = len(matrices) == 1  # as for UPGrad
    if not same:
        matrices = np.broadcast_to(cosines, (*shape, tasks)).reshape(-1, tasks, tasks)
    left: Array = np.flatnonzero(np.any(wrong, -1))
    wrong, memory, stuck = wrong[left], None, left[:0]
    for exchanges in itertools.count():
        helps, memory = _judge(wrong, memory)
        helps &= exchanges < MAX_EXCHANGES
        if not helps.all():
            stuck = np.concatenate((stuck, left[~helps]))
            left, wrong = left[helps], wrong[helps]
            memory = memory[0][helps], memory[1][helps]
        if not len(left):
            break
        free[left] = guess = free[left] ^ wrong
        u[left], wrong = _solve_for(guess, matrices if same else matrices[left], linear[left])
        unsolved = wrong.any(-1)
        if not unsolved.all():
            left, wrong = left[unsolved], wrong[unsolved]
            memory = memory[0][unsolved], memory[1][unsolved]
    if len(stuck):
        hard, known = matrices if same else matrices[stuck], linear[stuck]
        found = _solve_by_nnls(hard, known)
        free[stuck] = found > 0
        exact, wrong = _solve_for(free[stuck], hard, known)
        u[stuck] = np.where(np.any(wrong, -1, keepdims=True), found, exact)
    return u.reshape(shape), free.reshape(shape)


def _solve_for(free: Array, cosines: Array, linear: Array) -> tuple[Array, Array]:
    """Solve for the guessed free variables.

    Returns:
        The solution `[..., K]`, and where it contradicts the guess, `[..., K]` bool.
    """
    u = solve(
        np.where(free[..., :, None] & free[..., None, :], cosines, np.eye(linear.shape[-1])),
        np.where(free, linear, 0.0),
    )
    magnitude = abs(u)
    noise = ROUNDING * (matvec(abs(cosines), magnitude) + abs(linear))
    tolerance = ROUNDING * np.amax(magnitude, -1)[..., None]
    return u, np.where(free, u < -tolerance, matvec(cosines, u) - linear < -noise)


def _judge(wrong: Array, memory: tuple[Array, Array] | None) -> tuple[Array, tuple[Array, Array]]:
    """Return where exchanging all contradictions may still help, `[...]` bool, and the memory.

    Args:
        wrong: where the solution contradicts the guess, `[..., K]`.
        memory: the fewest contradictions so far and the patience left, both `[...]`; None at the
            first exchange.
    """
    count = np.sum(wrong, -1)
    fewest, remaining = memory or (count + 1, count * 0)
    better = count < fewest
    helps = better | (remaining > 0)
    return helps, (np.where(better, count, fewest), np.where(better, PATIENCE, remaining - 1))


def _solve_by_nnls(cosines: Array, linear: Array) -> Array:
    """Solve programmes `[N, K]` with SciPy, as least-squares problems with factors of C.

    C has a first axis of length N, or 1 if it is the same in all of them.
    """
    # Imported here: it takes as long as the rest of the library.
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    scipy_optimize: Any = optimize  # without type annotations
    factors = _numpy.linalg.cholesky(cosines)
    targets = _numpy.linalg.solve(factors, linear[..., None])[..., 0]
    upper = np.broadcast_to(factors.mT, (len(linear), *factors.shape[1:]))
    tasks = linear.shape[-1]
    found = [
        scipy_optimize.nnls(factor, target, maxiter=100 * tasks)[0]
        for factor, target in zip(upper, targets, strict=True)
    ]
    return np.stack(found)
