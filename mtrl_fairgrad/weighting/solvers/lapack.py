"""The exact solver's iteration, one problem at a time through LAPACK: the form for CPUs.

`batched` is the same algorithm without branches. Both minimise, over `x = log w`,

    Φ(x) = ½ uᵀCu − Σ_i (w_i^(1−p) − 1)/(1−p),    u_i = n_i w_i,    p = 1/α,

where C is the (ridged) cosine matrix of the gradients and n their norms, so that `u_i` is the
length task i contributes. Φ is strictly convex in w; its gradient `u∘(Cu) − w^(1−p)` vanishes
exactly where `Mw = w^(−p)`.

Two Newton iterations share the work. One solves for equal *logarithms* of the two sides: it is
exact for orthogonal gradients, whatever their norms, and needs few steps where it works. The other
minimises Φ, which always works.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]

Array = NDArray[np.float64]

LOWEST = -300.0
"""Floor of the log-weights. A task 130 decades below the others has no influence on any direction;
without a floor, large α asks for weights that no float can hold."""
TRUST_RADIUS = 8.0
"""Largest change of a log-weight in one of the steps that minimise Φ."""
TO_THE_END = 0.9
"""Largest part of a weight that a step straight in w may take from it."""
SUFFICIENT = 1e-4
"""Armijo's constant: the part of the predicted decrease that must be realised."""
ROUNDING = 1e-14
"""Relative size below which differences of Φ are rounding noise."""
CANCELLATION = 1e-7
"""Part of the terms that cancel in `(Mw)_i` by which its target is enlarged in the relative error.
"""
TARGET = 1e-12
"""Error at which iteration stops; well-conditioned problems reach it."""
SETTLED = 1e-6
"""Error up to which a problem counts as solved. Convergence is quadratic there, so that `PATIENCE`
steps none of which halves the error have met rounding."""
PATIENCE = 5
MAX_ITERATIONS = 150
RUSH = 12
"""Steps without safeguard that are tried before; they take a third of the time."""
LADDER = tuple(0.5**k for k in range(40))
"""Parts of a step that are tried one after the other until Φ falls enough."""

_lapack: Any = linalg.lapack  # compiled, without type annotations


class _Point(NamedTuple):
    """Everything the iteration needs to know about one x."""

    x: Array
    u: Array
    pull: Array
    """`u∘(Cu)`, the left side `w∘(Mw)`."""
    target: Array
    """`w^(1−p)`, the right side."""
    value: float
    """Φ."""
    noise: float
    """Rounding error of Φ."""
    error: float
    """Largest |left − right| relative to the right side and a little of the terms that cancel on
    the left.
    """


class _Problem:
    """One equation: `C` `[K, K]` symmetric positive definite, `log_norms` `[K]`, `p` positive."""

    def __init__(self, cosines: Array, log_norms: Array, p: float) -> None:
        self.cosines, self.log_norms, self.p = cosines, log_norms, p
        self._sizes = np.abs(cosines)
        self._diagonal = np.diag_indices(len(log_norms))

    def start(self) -> _Point:
        """The solution for orthogonal gradients, moved along its ray to the lowest Φ."""
        x = -2 / (1 + self.p) * self.log_norms
        u = np.exp(x + self.log_norms)
        along = np.exp((1 - self.p) * x).sum() / (u @ self.cosines @ u)
        return self.at(x + np.log(along) / (1 + self.p))

    def rush(self, x: Array) -> Array | None:
        """The limit of `log_newton` alone, without any safeguard, if it gets there: most problems
        need no more.

        The equation has one solution, so whatever solves it is the answer.
        """
        for _ in range(RUSH):
            u = np.exp(x + self.log_norms)
            pull = u * (self.cosines @ u)
            gap = (1 - self.p) * x - np.log(pull)
            size = np.abs(gap).max()
            step = self._solve(u, pull, pull * gap) if size < np.inf else None
            if step is None:
                return None
            x = x + step
            if size <= SETTLED:
                return x
        return None

    def at(self, x: Array) -> _Point:
        x = np.maximum(x, LOWEST)
        u = np.exp(x + self.log_norms)
        pull = u * (self.cosines @ u)
        exponent = (1 - self.p) * x
        target = np.exp(exponent)
        utility = x if self.p == 1 else np.expm1(exponent) / (1 - self.p)
        terms = u * (self._sizes @ u)
        error = np.abs(pull - target) / (target + CANCELLATION * terms)
        # At the floor only "still wants to be smaller" is left, which is as good as solved.
        error = np.where((x <= LOWEST) & (pull > target), 0.0, error)
        noise = ROUNDING * float(terms.sum() + np.abs(utility).sum())
        value = float(0.5 * pull.sum() - utility.sum())
        return _Point(x, u, pull, target, value, noise, float(error.max()))

    def log_newton(self, point: _Point) -> Array | None:
        """Newton's step for equal logarithms of the two sides, if there is one.

        A row whose left side has no logarithm is replaced by that of `newton`; the system stays
        symmetric.
        """
        positive = point.pull > 0
        left = np.where(positive, point.pull, point.target)
        right = np.where(
            positive, point.pull * np.log(point.target / left), point.target - point.pull
        )
        return self._solve(point.u, left, right)

    def newton(self, point: _Point) -> Array | None:
        """Newton's step for Φ as a function of w, as a relative change of w, if there is one."""
        return self._solve(point.u, point.target, point.target - point.pull)

    def _solve(self, u: Array, curvature: Array, right: Array) -> Array | None:
        """Solve `(diag(u) C diag(u) + p·diag(curvature)) step = right`; None if rounding prevents
        it.
        """
        system = self.cosines.copy()
        system[self._diagonal] += self.p * curvature / (u * u)
        found: Array
        _, found, info = _lapack.dposv(system, right / u, lower=1, overwrite_a=1)
        return found / u if info == 0 and np.isfinite(found).all() else None


def _moves(change: Array, share: float) -> list[Array]:
    """Ways to move log w by a share of a relative change of w; all are descent directions or tried
    as such.

    Along the change of log w, shortened to the trust radius; straight in w, which follows narrow
    valleys of Φ, short of any weight's end; and each weight for itself, so that a vanishing one
    does not hold the others back.
    """
    part = share * change
    whole = part * (TRUST_RADIUS / max(float(np.abs(change).max()), TRUST_RADIUS))
    straight = np.log1p(part * (TO_THE_END / max(float(-change.min()), TO_THE_END)))
    each = np.where(part > 0, np.log1p(np.abs(part)), np.maximum(part, -TRUST_RADIUS))
    return [whole, straight, each]


def _next(problem: _Problem, point: _Point) -> _Point | None:
    """The full logarithmic step if Φ falls enough, otherwise the best of ever shorter steps, if
    any.
    """
    gradient = point.pull - point.target

    def best(moves: list[Array]) -> _Point | None:
        found: _Point | None = None
        for move in moves:
            candidate = problem.at(point.x + move)
            predicted = SUFFICIENT * min(0.0, float(gradient @ move))
            falls = candidate.value <= point.value + predicted + point.noise
            if falls and (found is None or candidate.value < found.value):
                found = candidate
        return found

    bold = problem.log_newton(point)
    found = None if bold is None else best([bold])
    if found is not None:
        return found
    change = problem.newton(point)
    for share in LADDER:
        moves = [] if change is None else _moves(change, share)
        found = best(moves if bold is None else [*moves, share * bold])
        if found is not None:
            return found
    return None


@np.errstate(all="ignore")
def solve(cosines: Array, log_norms: Array, p: float) -> tuple[Array, float]:
    """Solve one equation.

    Args:
        cosines: `[K, K]`, symmetric positive definite with ridged unit diagonal.
        log_norms: `[K]`, logarithms of the gradient norms, centred near zero.
        p: 1/α, positive.

    Returns:
        The log-weights `[K]` and their error (see `_Point`). If rounding ends the iteration early,
        the best iterate.
    """
    problem = _Problem(cosines, log_norms, p)
    point = best = problem.start()
    rushed = problem.rush(point.x)
    if rushed is not None:
        point = best = min(point, problem.at(rushed), key=lambda candidate: candidate.error)
    stalled = 0
    for _ in range(MAX_ITERATIONS):
        following = None if best.error <= TARGET else _next(problem, point)
        if following is None:
            break
        point = following
        stalled = (
            stalled + 1 if best.error <= SETTLED and not point.error <= 0.5 * best.error else 0
        )
        if not point.error >= best.error:
            best = point
        if stalled >= PATIENCE:
            break
    return best.x, best.error


def solve_batch(cosines: Array, log_norms: Array, p: float) -> tuple[Array, Array]:
    """Solve one equation after the other; arguments and results as of `batched.solve`."""
    tasks = log_norms.shape[-1]
    log_weights, errors = np.empty(log_norms.shape), np.empty(log_norms.shape[:-1])
    problems = zip(cosines.reshape(-1, tasks, tasks), log_norms.reshape(-1, tasks), strict=True)
    for place, (matrix, vector) in zip(np.ndindex(errors.shape), problems, strict=True):
        log_weights[place], errors[place] = solve(matrix, vector, p)
    return log_weights, errors
