"""Safeguarded Newton iteration for one α-fair equation on the CPU, through LAPACK.

The equation is the stationarity condition of a strictly convex function of `x = log w`,

    Φ(x) = ½ uᵀCu − Σ_i (w_i^(1−p) − 1)/(1−p),    u_i = n_i w_i,    p = 1/α,

where C is the (ridged) cosine matrix of the gradients and n their norms, so that `u_i` is the
length that task i contributes. Its gradient `u∘(Cu) − w^(1−p)` vanishes exactly where
`Mw = w^(−p)`.

Two Newton steps are combined. One solves for equal *logarithms* of the two sides: it is exact for
orthogonal gradients, whatever their norms, and needs few steps where it converges. The other
minimises Φ, which always converges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]

Array = NDArray[np.float64]

LOWEST = -300.0
"""Lower bound of the log-weights in the iteration. A task 130 decades below the others does not
change the direction; without a bound, large α leads to weights that no float can represent."""
TRUST_RADIUS = 8.0
"""Largest change of a log-weight in a step that minimises Φ."""
MAX_RELATIVE_DECREASE = 0.9
"""Largest part of a weight that a step straight in w may subtract from it."""
SUFFICIENT = 1e-4
"""Armijo's constant: the part of the predicted decrease that must be realised."""
ROUNDING = 1e-14
"""Relative size below which differences of Φ are rounding errors."""
CANCELLATION = 1e-7
"""Part of the terms that cancel in `(Mw)_i` by which the relative error is dampened."""
TARGET = 1e-12
"""Error at which the iteration stops; well-conditioned problems reach it."""
SETTLED = 1e-6
"""Error up to which a problem counts as solved. Convergence is quadratic there, so `PATIENCE` steps
without halving the error mean that rounding is reached.
"""
PATIENCE = 5
"""Steps without halving the error before a solved problem stops."""
MAX_ITERATIONS = 150
"""Steps before an unsolved problem stops."""
STEP_FRACTIONS = tuple(0.5**k for k in range(40))
"""Fractions of a step that are tried one after the other until Φ falls enough."""

_lapack: Any = linalg.lapack  # compiled, without type annotations


class Point(NamedTuple):
    """The iteration's quantities at one x."""

    x: Array
    u: Array
    lhs: Array
    """`u∘(Cu)`, the left side `w∘(Mw)`."""
    rhs: Array
    """`w^(1−p)`, the right side."""
    value: float
    """Φ."""
    noise: float
    """Rounding error of Φ."""
    error: float
    """Largest |left − right|, relative to the right side plus a part `CANCELLATION` of the terms
    that cancel on the left."""


class Objective:
    """One equation and its function Φ.

    Args:
        cosines: `[K, K]`, symmetric positive definite with ridged unit diagonal.
        log_norms: `[K]`, centred near zero.
        p: 1/α, positive.
    """

    def __init__(self, cosines: Array, log_norms: Array, p: float) -> None:
        self.cosines, self.log_norms, self.p = cosines, log_norms, p
        self._sizes = np.abs(cosines)
        self._diagonal = np.diag_indices(len(log_norms))

    def start(self) -> Point:
        """Return the solution for orthogonal gradients, moved along its ray to the lowest Φ."""
        x = -2 / (1 + self.p) * self.log_norms
        u = np.exp(x + self.log_norms)
        along = np.exp((1 - self.p) * x).sum() / (u @ self.cosines @ u)
        return self.at(x + np.log(along) / (1 + self.p))

    def at(self, x: Array) -> Point:
        """Evaluate the equation and Φ at x."""
        x = np.maximum(x, LOWEST)
        u = np.exp(x + self.log_norms)
        lhs = u * (self.cosines @ u)
        exponent = (1 - self.p) * x
        rhs = np.exp(exponent)
        utility = x if self.p == 1 else np.expm1(exponent) / (1 - self.p)
        terms = u * (self._sizes @ u)
        error = np.abs(lhs - rhs) / (rhs + CANCELLATION * terms)
        # At the bound, a weight that should be even smaller counts as solved.
        error = np.where((x <= LOWEST) & (lhs > rhs), 0.0, error)
        noise = ROUNDING * float(terms.sum() + np.abs(utility).sum())
        value = float(0.5 * lhs.sum() - utility.sum())
        return Point(x, u, lhs, rhs, value, noise, float(error.max()))

    def system(self, u: Array, curvature: Array) -> Array:
        """Return the matrix `C + p·diag(curvature / u²)` of a Newton step, `[K, K]`."""
        system = self.cosines.copy()
        system[self._diagonal] += self.p * curvature / (u * u)
        return system

    def log_newton(self, point: Point) -> Array | None:
        """Return Newton's step for equal logarithms of the two sides, None if rounding prevents it.

        A row whose left side has no logarithm is replaced by that of `newton`; the system stays
        symmetric.
        """
        positive = point.lhs > 0
        curvature = np.where(positive, point.lhs, point.rhs)
        right = np.where(positive, point.lhs * np.log(point.rhs / curvature), point.rhs - point.lhs)
        return self._solve(point.u, curvature, right)

    def newton(self, point: Point) -> Array | None:
        """Return Newton's step for Φ as a function of w, as a relative change of w, or None."""
        return self._solve(point.u, point.rhs, point.rhs - point.lhs)

    def _solve(self, u: Array, curvature: Array, right: Array) -> Array | None:
        """Solve `(diag(u) C diag(u) + p·diag(curvature)) step = right`."""
        step: Array
        _, step, info = _lapack.dposv(self.system(u, curvature), right / u, lower=1, overwrite_a=1)
        return step / u if info == 0 and np.isfinite(step).all() else None

    def minimize(self, point: Point) -> Point:
        """Iterate until the error is at most `TARGET`.

        Returns the best point, also if rounding ends the iteration early.
        """
        best, stalled = point, 0
        for _ in range(MAX_ITERATIONS):
            following = None if best.error <= TARGET else self._next(point)
            if following is None:
                break
            point = following
            slow = best.error <= SETTLED and not point.error <= 0.5 * best.error
            stalled = stalled + 1 if slow else 0
            if not point.error >= best.error:
                best = point
            if stalled >= PATIENCE:
                break
        return best

    def _next(self, point: Point) -> Point | None:
        """Take the full logarithmic step if Φ falls enough, otherwise the best shorter step.

        Returns None if no step lowers Φ.
        """
        bold = self.log_newton(point)
        following = None if bold is None else self._best(point, [bold])
        if following is not None:
            return following
        change = self.newton(point)
        for fraction in STEP_FRACTIONS:
            moves = [] if change is None else _moves(change, fraction)
            following = self._best(point, moves if bold is None else [*moves, fraction * bold])
            if following is not None:
                return following
        return None

    def _best(self, point: Point, moves: list[Array]) -> Point | None:
        """Return the lowest point among those where Φ falls enough, if any."""
        gradient = point.lhs - point.rhs
        best: Point | None = None
        for move in moves:
            candidate = self.at(point.x + move)
            predicted = SUFFICIENT * min(0.0, float(gradient @ move))
            falls = candidate.value <= point.value + predicted + point.noise
            if falls and (best is None or candidate.value < best.value):
                best = candidate
        return best


def _moves(change: Array, fraction: float) -> list[Array]:
    """Return ways to move log w by a fraction of a relative change of w.

    First along the change of log w, shortened to the trust radius; then straight in w, which
    follows narrow valleys of Φ, without removing a weight; then each weight by itself, so that a
    vanishing one does not hold the others back.
    """
    part = fraction * change
    whole = part * (TRUST_RADIUS / max(float(np.abs(change).max()), TRUST_RADIUS))
    shortening = MAX_RELATIVE_DECREASE / max(float(-change.min()), MAX_RELATIVE_DECREASE)
    straight = np.log1p(part * shortening)
    each = np.where(part > 0, np.log1p(np.abs(part)), np.maximum(part, -TRUST_RADIUS))
    return [whole, straight, each]
