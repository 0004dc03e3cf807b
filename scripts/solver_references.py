"""Reference directions for `benchmark_solvers.py`, computed independently and slowly.

All functions take task gradients `J` `[K, P]` in float64 and the method's random numbers, and
return a direction `[P]`. For methods with state it is that of the first call. Losses are
`losses_of(K)`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy
import numpy as np
from scipy.optimize import nnls
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mtrl_fairgrad.weighting import FairGrad
from tests.unit.weighting.exact_solution import exact_weights

Array = np.ndarray[Any, Any]


def losses_of(tasks: int) -> Array:
    """Return losses `[K]` for methods that need them."""
    return np.linspace(0.2, 2.0, tasks)


def alpha_fair(J: Array, alpha: float) -> Array:
    """Run Newton's iteration on the equation with 250 digits, started at our solution."""
    import torch

    gramian = torch.from_numpy(J @ J.T)
    exact = exact_weights(gramian, FairGrad(alpha=alpha)(gramian).weights, alpha)
    return np.array([float(w / max(exact)) for w in exact]) @ J


def mgda(J: Array) -> Array:
    """Solve non-negative least squares of J with an additional row of ones for Σ w = 1."""
    scale = np.linalg.norm(J, axis=1).min()
    weights, _ = nnls(
        np.vstack([J.T, np.full(len(J), scale)]),
        np.append(np.zeros(J.shape[1]), scale),
        maxiter=10000,
    )
    return weights / weights.sum() @ J


def cagrad(J: Array, c: float = 0.4) -> Array:
    """Solve the primal problem in an orthonormal basis by Clarabel, with its tightest tolerance."""
    basis, rows = np.linalg.qr(J.T)
    scale = np.linalg.norm(rows, axis=0)
    mean = rows.mean(1)
    d, slowest = cvxpy.Variable(len(mean)), cvxpy.Variable()
    reach = c * np.linalg.norm(mean)
    unit = reach * scale.min()
    limits = [
        cvxpy.multiply(1 / scale, rows.T @ (mean + reach * d)) >= slowest * unit / scale,
        cvxpy.norm(d) <= 1,
    ]
    cvxpy.Problem(cvxpy.Maximize(slowest), limits).solve(
        cvxpy.CLARABEL, tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13, max_iter=500
    )
    return basis @ (mean + reach * np.asarray(d.value))


def upgrad(J: Array) -> Array:
    """Compute projections onto the dual cone by Moreau's decomposition."""
    return np.mean([g + nnls(-J.T, g, maxiter=10000)[0] @ J for g in J], axis=0)


def imtl_g(J: Array) -> Array:
    """Compute the vector in the gradients' span with projection 1 on each unit gradient.

    Its sign is the one that makes Σ w > 0.
    """
    units = J / np.linalg.norm(J, axis=1, keepdims=True)
    direction = np.linalg.lstsq(units, np.ones(len(J)))[0]
    return direction * np.sign(np.linalg.lstsq(J.T, direction)[0].sum())


def aligned_mtl(J: Array) -> Array:
    """Compute the nearest orthonormal rows from the singular value decomposition."""
    u, s, vt = np.linalg.svd(J, full_matrices=False)
    return s[-1] * (u @ vt).mean(0)


def pcgrad(J: Array, orders: Tensor) -> Array:
    """Run Algorithm 1 of the paper, line by line."""
    total = np.zeros(J.shape[1])
    for i, order in enumerate(orders.tolist()):
        g = J[i].copy()
        for j in order:
            if j != i and g @ J[j] < 0:
                g -= (g @ J[j]) / (J[j] @ J[j]) * J[j]
        total += g
    return total


def graddrop(J: Array, uniform: Tensor) -> Array:
    """Run Algorithm 1 of the paper, coordinate by coordinate."""
    positive = 0.5 * (1 + J.sum(0) / np.abs(J).sum(0))
    keep_positive = positive > uniform.numpy()
    return np.where(np.where(keep_positive, J > 0, J < 0), J, 0).sum(0)


def weighted(weigh: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return the reference of a loss weighting, given the formula of its weights."""
    return lambda J: weigh(losses_of(len(J))) @ J


def softmax(x: Array) -> Array:
    """Compute `e^x / Σ e^x`."""
    e = np.exp(x - x.max())
    return e / e.sum()


def db_mtl(J: Array) -> Array:
    """Sum the unit gradients.

    In the first call the average, which starts at 0, has the direction of the gradients of log l.
    """
    return (J / np.linalg.norm(J, axis=1, keepdims=True)).sum(0)


def moco(J: Array) -> Array:
    """Compute the first call: Y = G/2, and λ after one projected step of size 0.1 from 1/K."""
    Y, start = 0.5 * J, np.full(len(J), 1 / len(J))
    point = start - 0.1 * (Y @ Y.T) @ start
    # Projection onto the simplex by bisection on its threshold.
    low, high = point.min() - 1, point.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(point - high, 0) @ Y
